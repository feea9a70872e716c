//! An answer's characters as tokens: LaTeX, plain text and Unicode alike, without what only concerns its looks.

use super::expression::Relation;
use super::names::{FUNCTIONS, GREEK, LOOKS, SHORT_ANSWERS, SHORT_WORDS, TEXTS, greek, superscript};

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// Where it stands in the text, in bytes.
    pub(super) start: usize,
    pub(super) end: usize,
    /// Whether white space stands before it.
    pub(super) spaced: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// Digits, at most one point, at most one exponent; no separators of thousands.
    Number(String),
    /// A letter that stands for something, Greek ones by their name.
    Letter(String),
    /// A word of a language, or a unit.
    Word(String),
    /// A command of LaTeX, or a function's name, without the backslash.
    Command(String),
    Relation(Relation),
    /// `+ - * / ^ _ ! ' : % & ( ) [ ] { } |`, and `⟨ ⟩` as `<` and `>`.
    Sign(char),
    PlusMinus,
    MinusPlus,
    OpenSet,
    CloseSet,
    Comma,
    Semicolon,
    /// `and`, `or`.
    Conjunction,
    NewLine,
    Begin(String),
    End(String),
    Degree,
}

/// The tokens of an answer. `grouping`: plain commas and spaces between groups of three digits belong to the number.
pub(super) fn tokens(text: &str, grouping: bool) -> Vec<Token> {
    let mut reader =
        Reader { text, grouping, at: 0, tokens: Vec::new(), spaced: false, texts: Vec::new(), braces: 0, brackets: 0 };
    while reader.at < text.len() {
        reader.step();
    }
    reader.tokens
}

struct Reader<'a> {
    text: &'a str,
    grouping: bool,
    at: usize,
    tokens: Vec<Token>,
    spaced: bool,
    /// The brace depths at which the `\text{…}` that are open end, and whether each is roman type only.
    texts: Vec<(usize, bool)>,
    braces: usize,
    /// Open `(`, `[` and `\{`: there, a comma separates.
    brackets: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn push(&mut self, kind: Kind, length: usize) {
        let (start, end) = (self.at, self.at + length);
        self.tokens.push(Token { kind, start, end, spaced: std::mem::take(&mut self.spaced) });
        self.at = end;
    }

    fn sign(&mut self, sign: char, length: usize) {
        self.push(Kind::Sign(sign), length);
    }

    fn skip(&mut self, length: usize) {
        self.at += length;
        self.spaced = true;
    }

    fn step(&mut self) {
        let rest = self.rest();
        let Some(c) = rest.chars().next() else { return };
        let length = c.len_utf8();
        let next = rest[length..].chars().next();
        let relation = |relation| Kind::Relation(relation);
        match c {
            '0'..='9' | '.' => self.number(),
            'a'..='z' | 'A'..='Z' => self.letters(),
            '\\' => self.command(),
            '{' if rest.starts_with("{,}") => self.push(Kind::Comma, 3),
            '{' if rest.starts_with("{, }") => self.push(Kind::Comma, 4),
            '{' => {
                self.braces += 1;
                self.sign('{', 1);
            }
            '}' => {
                self.braces = self.braces.saturating_sub(1);
                if self.texts.last().is_some_and(|(depth, _)| *depth == self.braces) {
                    self.texts.pop();
                    self.skip(1);
                } else {
                    self.sign('}', 1);
                }
            }
            '(' | '[' | '（' => {
                self.brackets += 1;
                self.sign(if c == '（' { '(' } else { c }, length);
            }
            ')' | ']' | '）' => {
                self.brackets = self.brackets.saturating_sub(1);
                self.sign(if c == '）' { ')' } else { c }, length);
            }
            '*' if next == Some('*') => self.sign('^', 2),
            '+' | '*' | '/' | '^' | '_' | '|' | '&' | '%' => self.sign(c, 1),
            '-' | '−' | '–' | '—' => self.sign('-', length),
            '×' | '·' | '⋅' | '∙' | '∗' => self.sign('*', length),
            '÷' | '∕' | '⁄' => self.sign('/', length),
            '％' => self.sign('%', length),
            ':' if next == Some('=') => self.push(relation(Relation::Equal), 2),
            ':' | '：' | '∶' => self.sign(':', length),
            '!' if next == Some('=') => self.push(relation(Relation::NotEqual), 2),
            '!' => self.sign('!', 1),
            '\'' | '′' | '’' => self.sign('\'', length),
            '=' if next == Some('=') => self.push(relation(Relation::Equal), 2),
            '=' => self.push(relation(Relation::Equal), 1),
            '<' if next == Some('=') => self.push(relation(Relation::LessOrEqual), 2),
            '<' => self.push(relation(Relation::Less), 1),
            '>' if next == Some('=') => self.push(relation(Relation::GreaterOrEqual), 2),
            '>' => self.push(relation(Relation::Greater), 1),
            '≤' | '⩽' => self.push(relation(Relation::LessOrEqual), length),
            '≥' | '⩾' => self.push(relation(Relation::GreaterOrEqual), length),
            '≠' => self.push(relation(Relation::NotEqual), length),
            '≈' | '≃' | '≅' => self.push(relation(Relation::Approximately), length),
            '∈' => self.push(relation(Relation::Element), length),
            '≡' => self.push(relation(Relation::Other), length),
            '±' => self.push(Kind::PlusMinus, length),
            '∓' => self.push(Kind::MinusPlus, length),
            ',' | '，' | '、' => self.push(Kind::Comma, length),
            ';' | '；' => self.push(Kind::Semicolon, length),
            '°' | 'º' => self.push(Kind::Degree, length),
            'π' => self.push(Kind::Letter("pi".into()), length),
            '∞' => self.push(Kind::Command("infty".into()), length),
            '√' => self.push(Kind::Command("sqrt".into()), length),
            '∅' => self.push(Kind::Command("emptyset".into()), length),
            '∪' => self.push(Kind::Command("cup".into()), length),
            '⟨' | '〈' => self.sign('<', length),
            '⟩' | '〉' => self.sign('>', length),
            '½' | '¼' | '¾' | '⅓' | '⅔' => self.vulgar(c),
            '$' | '€' | '£' | '¥' | '"' | '“' | '”' | '`' | '~' => self.skip(length),
            _ if c.is_whitespace() || c == '\u{200b}' || c == '\u{feff}' => self.skip(length),
            _ => match (superscript(c), greek(c)) {
                (Some(digit), _) => self.superscripts(digit),
                (None, Some(name)) => self.push(Kind::Letter(name.into()), length),
                (None, None) if c.is_alphabetic() => self.foreign_word(),
                (None, None) => self.push(Kind::Command(c.to_string()), length),
            },
        }
    }

    /// `½` as `\frac12`.
    fn vulgar(&mut self, c: char) {
        let (above, below) = match c {
            '½' => ("1", "2"),
            '¼' => ("1", "4"),
            '¾' => ("3", "4"),
            '⅓' => ("1", "3"),
            _ => ("2", "3"),
        };
        self.push(Kind::Command("frac".into()), 0);
        self.push(Kind::Number(above.into()), 0);
        self.push(Kind::Number(below.into()), c.len_utf8());
    }

    /// `x²³` as `x^{23}`.
    fn superscripts(&mut self, first: char) {
        self.push(Kind::Sign('^'), 0);
        let mut digits = String::from(first);
        let mut length = self.rest().chars().next().map_or(0, char::len_utf8);
        for c in self.rest().chars().skip(1) {
            let Some(digit) = superscript(c) else { break };
            digits.push(digit);
            length += c.len_utf8();
        }
        if let Some(rest) = digits.strip_prefix('-') {
            self.push(Kind::Sign('{'), 0);
            self.push(Kind::Sign('-'), 0);
            self.push(Kind::Number(rest.to_string()), length);
            self.push(Kind::Sign('}'), 0);
        } else {
            self.push(Kind::Number(digits), length);
        }
    }

    fn foreign_word(&mut self) {
        let word: String = self.rest().chars().take_while(|c| c.is_alphabetic()).collect();
        let length = word.len();
        self.push(Kind::Word(word), length);
    }

    fn number(&mut self) {
        let bytes = self.rest().as_bytes();
        let digits_at =
            |at: usize| bytes[at.min(bytes.len())..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let mut digits = String::new();
        let mut at = digits_at(0);
        if at == 0 && digits_at(1) == 0 {
            self.skip(1); // a point alone ends a sentence
            return;
        }
        digits.push_str(&self.rest()[..at]);
        if let Some((grouped, end)) = self.grouped(at) {
            (digits, at) = (grouped, end);
        }
        let repeats = |at: usize| self.rest()[at..].starts_with(r"\overline") || self.rest()[at..].starts_with(r"\dot");
        if bytes.get(at) == Some(&b'.') && (digits_at(at + 1) > 0 || repeats(at + 1)) {
            let places = digits_at(at + 1);
            digits.push_str(&self.rest()[at..=at + places]);
            at += 1 + places;
        }
        // 4.5e33
        if matches!(bytes.get(at), Some(b'e' | b'E')) && at > 0 {
            let signed = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
            let exponent = digits_at(at + 1 + signed);
            let end = at + 1 + signed + exponent;
            if exponent > 0 && !bytes.get(end).is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'^') {
                digits.push('e');
                digits.push_str(&self.rest()[at + 1..end]);
                at = end;
            }
        }
        self.push(Kind::Number(digits), at);
    }

    /// Digits with separators of thousands: `1,234`, `1{,}234`, `1,\!234`, `1\,234`, `1 234`; the digits alone, and
    /// where they end. A plain comma inside brackets separates numbers.
    fn grouped(&self, first: usize) -> Option<(String, usize)> {
        let text = self.rest();
        if !(1..=3).contains(&first)
            || text.starts_with('0')
            || matches!(self.tokens.last(), Some(Token { kind: Kind::Sign('_'), .. }))
        {
            return None;
        }
        let mut digits = text[..first].to_string();
        let mut at = first;
        loop {
            let rest = &text[at..];
            let mut separator = rest.len()
                - rest.trim_start_matches([',', ' ', '{', '}', '\\', '!', '\u{a0}', '\u{2009}', '\u{202f}']).len();
            if separator > 8 {
                separator = 0;
            }
            let between = &rest[..separator];
            // `14 {, }916`
            let spaced_out = between.len() > 1 && between.contains('{');
            let without_spaces = between.replace(' ', "");
            let plain = match if spaced_out { &without_spaces } else { between } {
                "," | " " | "\u{a0}" => self.grouping && self.brackets == 0,
                r"\," | r"{,}" | r",\!" | r",\! " | r"\!" | r"{,}\!" | r"\ " | r",\," | "\u{2009}" | "\u{202f}" => true,
                _ => false,
            };
            let group = rest[separator..].bytes().take_while(u8::is_ascii_digit).count();
            if separator == 0 || !plain || group != 3 {
                // `1,234,56` is no number: then none of it is.
                let broken = plain && separator > 0 && group > 0;
                return (at > first && !broken).then_some((digits, at));
            }
            digits.push_str(&rest[separator..separator + 3]);
            at += separator + 3;
        }
    }

    fn letters(&mut self) {
        let rest = self.rest();
        let length = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let mut word = &rest[..length];
        let after_value =
            matches!(self.tokens.last(), Some(Token { kind: Kind::Number(_) | Kind::Sign(')' | '}'), .. }));
        for conjunction in ["or", "and"] {
            // `(1,2)or(2,1)`, `W(x)=1orW(x)=-1`
            if word.starts_with(conjunction)
                && (word == conjunction || after_value && !self.spaced && self.texts.is_empty())
            {
                self.push(Kind::Conjunction, conjunction.len());
                return;
            }
        }
        if let Some((_, roman)) = self.texts.last() {
            let kind = match word {
                "sin" | "cos" | "tan" | "cot" | "sec" | "csc" | "arcsin" | "arccos" | "arctan" | "ln" | "log"
                | "lcm" | "gcd"
                    if *roman =>
                {
                    Kind::Command(word.into())
                }
                "e" | "i" | "d" | "x" | "y" if *roman => Kind::Letter(word.into()),
                _ => Kind::Word(word.into()),
            };
            self.push(kind, length);
            return;
        }
        let before_a_letter = |name: &str| word.len() == name.len() + 1 && word.starts_with(name);
        let functions = ["sin", "cos", "tan", "cot", "sec", "csc", "ln", "log"];
        if let Some(name) = functions.into_iter().find(|name| before_a_letter(name)) {
            self.push(Kind::Command(name.into()), name.len()); // `sinx`
            return;
        }
        let kind = if length == 1 {
            Kind::Letter(word.into())
        } else if word == "pi" {
            Kind::Letter("pi".into())
        } else if matches!(word, "infinity" | "Infinity" | "inf" | "oo") {
            Kind::Command("infty".into())
        } else if FUNCTIONS.contains(&word) && !(word == "min" && after_value) {
            Kind::Command(word.into())
        } else if length >= 4
            || SHORT_WORDS.contains(&word) && after_value
            || SHORT_ANSWERS.contains(&word.to_lowercase().as_str())
        {
            Kind::Word(word.into())
        } else if GREEK.contains(&word) {
            Kind::Letter(word.into())
        } else {
            // A product of variables: the first of them.
            word = &word[..1];
            Kind::Letter(word.into())
        };
        let kind = match kind {
            Kind::Word(word) if GREEK.contains(&word.as_str()) => Kind::Letter(word),
            other => other,
        };
        let length = if matches!(&kind, Kind::Letter(letter) if letter.len() == 1) { 1 } else { length };
        self.push(kind, length);
    }

    fn command(&mut self) {
        let rest = &self.rest()[1..];
        let Some(c) = rest.chars().next() else {
            self.skip(1);
            return;
        };
        if !c.is_ascii_alphabetic() {
            match c {
                '{' => {
                    self.brackets += 1;
                    self.push(Kind::OpenSet, 2);
                }
                '}' => {
                    self.brackets = self.brackets.saturating_sub(1);
                    self.push(Kind::CloseSet, 2);
                }
                '\\' => self.push(Kind::NewLine, 2),
                '%' => self.sign('%', 2),
                '|' => self.sign('|', 2),
                '&' => self.push(Kind::Word("&".into()), 2),
                // `\,`, `\!`, `\;`, `\ `, `\$`, `\(`, `\[` …
                _ => self.skip(1 + c.len_utf8()),
            }
            return;
        }
        let length = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let name = &rest[..length];
        let whole = 1 + length;
        let relation = |relation| Kind::Relation(relation);
        match name {
            "left" | "right" if rest[length..].starts_with('.') => self.skip(whole + 1),
            "begin" | "end" => self.environment(name == "begin", whole),
            _ if TEXTS.contains(&name) => {
                let brace = rest[length..].len() - rest[length..].trim_start().len();
                if rest[length + brace..].starts_with('{') {
                    self.texts.push((self.braces, matches!(name, "mathrm" | "operatorname")));
                    self.braces += 1;
                    self.skip(whole + brace + 1);
                } else {
                    self.skip(whole);
                }
            }
            _ if LOOKS.contains(&name) => self.skip(whole),
            "dfrac" | "tfrac" | "cfrac" => self.push(Kind::Command("frac".into()), whole),
            "dbinom" | "tbinom" => self.push(Kind::Command("binom".into()), whole),
            "cdot" | "times" | "ast" | "cdotp" => self.sign('*', whole),
            "div" | "slash" => self.sign('/', whole),
            "pm" => self.push(Kind::PlusMinus, whole),
            "mp" => self.push(Kind::MinusPlus, whole),
            "pi" => self.push(Kind::Letter("pi".into()), whole),
            "circ" | "degree" => self.push(Kind::Degree, whole),
            "prime" => self.sign('\'', whole),
            "le" | "leq" | "leqslant" => self.push(relation(Relation::LessOrEqual), whole),
            "ge" | "geq" | "geqslant" => self.push(relation(Relation::GreaterOrEqual), whole),
            "lt" => self.push(relation(Relation::Less), whole),
            "gt" => self.push(relation(Relation::Greater), whole),
            "ne" | "neq" => self.push(relation(Relation::NotEqual), whole),
            "approx" | "simeq" | "cong" | "doteq" => self.push(relation(Relation::Approximately), whole),
            "in" => self.push(relation(Relation::Element), whole),
            "equiv" | "sim" | "to" | "rightarrow" | "implies" | "Rightarrow" | "mapsto" | "iff" | "propto" => {
                self.push(relation(Relation::Other), whole);
            }
            "lbrace" => {
                self.brackets += 1;
                self.push(Kind::OpenSet, whole);
            }
            "rbrace" => {
                self.brackets = self.brackets.saturating_sub(1);
                self.push(Kind::CloseSet, whole);
            }
            "lvert" | "rvert" | "vert" | "lVert" | "rVert" | "Vert" => self.sign('|', whole),
            "langle" => self.sign('<', whole),
            "rangle" => self.sign('>', whole),
            "lbrack" => self.sign('[', whole),
            "rbrack" => self.sign(']', whole),
            "colon" => self.sign(':', whole),
            "and" | "land" | "wedge" | "or" | "lor" | "vee" => self.push(Kind::Conjunction, whole),
            "newline" => self.push(Kind::NewLine, whole),
            "ldots" | "dots" | "cdots" | "dotsc" | "dotsb" => self.push(Kind::Command("dots".into()), whole),
            "lg" | "arsinh" => self.push(Kind::Command(name.into()), whole),
            _ if GREEK.contains(&name) => {
                let name = name.strip_prefix("var").unwrap_or(name);
                self.push(Kind::Letter(name.into()), whole);
            }
            _ => self.push(Kind::Command(name.into()), whole),
        }
    }

    fn environment(&mut self, begins: bool, before: usize) {
        let rest = &self.rest()[before..];
        let name = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map(|(name, _)| name);
        match name {
            Some(name) if name.len() < 20 => {
                let kind = if begins { Kind::Begin(name.into()) } else { Kind::End(name.into()) };
                let mut length = before + name.len() + 2;
                if begins && name == "array" {
                    // Its columns: `{cc}`.
                    let columns = &self.rest()[length..];
                    length += columns.strip_prefix('{').and_then(|rest| rest.find('}')).map_or(0, |end| end + 2);
                }
                self.push(kind, length);
            }
            _ => self.push(Kind::Command("begin".into()), before),
        }
    }
}
