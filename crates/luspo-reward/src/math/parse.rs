//! From tokens to what they mean.
//!
//! A descent over the grammar
//!
//! ```text
//! list     = item {(, | ; | and | or | new line) item}
//! item     = [words] member {(= | < | ∈ | …) member}
//! member   = quantity {∪ quantity} | quantity {: quantity}
//! quantity = sum [unit]
//! sum      = [±] product {(+ | - | ±) product}
//! product  = factor {[* | /] factor}
//! factor   = primary {^ script | _ script | ! | % | ° | '}
//! ```
//!
//! An item that does not fit becomes a text, so every answer is read as something. Depth and steps are bounded.

use super::expression::{Constant, Decimals, Expr, Function, Number, Relation};
use super::rational::Rational;
use super::tokens::{Kind, Token, tokens};
use super::unit;

/// Brackets, scripts and arguments within each other; formulas that people write have ten at most.
const DEEPEST: usize = 40;

/// Words in front of a value that say nothing.
const NOISE: [&str; 19] = [
    "approximately", "about", "approx", "roughly", "exactly", "around", "is", "equals", "the", "answer", "final", "value",
    "so", "thus", "therefore", "hence", "result",
    "option", "choice",
];

/// Reads an answer; what is no formula is a text.
pub(super) fn parse(text: &str) -> Expr {
    parse_with(text, true)
}

/// The same with every plain comma as a separator: `100,200` as two numbers.
pub(super) fn parse_separated(text: &str) -> Expr {
    parse_with(text, false)
}

fn parse_with(text: &str, grouping: bool) -> Expr {
    let whole = Expr::Text(text.trim().to_string());
    let tokens = tokens(text, grouping);
    if tokens.is_empty() {
        return whole;
    }
    let mut parser = Parser { text, tokens, at: 0, depth: 0, bars: 0 };
    match parser.list(true) {
        Some(list) if parser.at == parser.tokens.len() => list.into_expr().unwrap_or(whole),
        _ => whole,
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    /// Open `|`.
    bars: usize,
}

/// Items and what stood between them.
#[derive(Default)]
struct List {
    items: Vec<Expr>,
    separators: usize,
    conjunctions: usize,
}

impl List {
    /// Several items as one answer.
    fn into_expr(mut self) -> Option<Expr> {
        if self.items.len() < 2 {
            return self.items.pop();
        }
        // A list of numbers is in an order; solutions, points and words are not.
        let plain = self.items.iter().all(|item| item.is_scalar() && !item.any(&mut |part| matches!(part, Expr::PlusMinus(..))));
        let ordered = plain && self.conjunctions == 0;
        Some(Expr::List { items: self.items, ordered })
    }
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Kind> {
        self.tokens.get(self.at).map(|token| &token.kind)
    }

    fn peek_at(&self, ahead: usize) -> Option<&Kind> {
        self.tokens.get(self.at + ahead).map(|token| &token.kind)
    }

    fn is(&self, kind: &Kind) -> bool {
        self.peek() == Some(kind)
    }

    fn is_sign(&self, sign: char) -> bool {
        self.peek() == Some(&Kind::Sign(sign))
    }

    fn is_ahead(&self, ahead: usize, sign: char) -> bool {
        self.peek_at(ahead) == Some(&Kind::Sign(sign))
    }

    fn take_sign(&mut self, sign: char) -> bool {
        let is = self.is_sign(sign);
        self.at += usize::from(is);
        is
    }

    fn expect_sign(&mut self, sign: char) -> Option<()> {
        self.take_sign(sign).then_some(())
    }

    /// Whether an item ends here.
    fn at_end_of_item(&self) -> bool {
        self.at_separator() || self.at_close()
    }

    fn at_separator(&self) -> bool {
        matches!(self.peek(), Some(Kind::Comma | Kind::Semicolon | Kind::Conjunction | Kind::NewLine))
    }

    fn at_close(&self) -> bool {
        match self.peek() {
            None | Some(Kind::Sign(')' | ']' | '}' | '>' | '&') | Kind::CloseSet | Kind::End(_)) => true,
            Some(Kind::Sign('|')) => self.bars > 0,
            _ => false,
        }
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        if self.depth >= DEEPEST {
            return None;
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    fn list(&mut self, outermost: bool) -> Option<List> {
        let mut list = List::default();
        loop {
            while self.at_separator() {
                match self.peek() {
                    Some(Kind::Conjunction) => list.conjunctions += 1,
                    _ => list.separators += 1,
                }
                self.at += 1;
            }
            if self.at_close() {
                return Some(list);
            }
            let start = self.at;
            match self.item().filter(|_| self.at_end_of_item()) {
                Some(item) => list.items.push(item),
                None if outermost => {
                    self.at = start;
                    list.items.push(self.unreadable());
                }
                None => return None,
            }
        }
    }

    /// An item that does not fit the grammar: the value after its `=`, if there is one that does, else its text.
    fn unreadable(&mut self) -> Expr {
        let start = self.at;
        let mut open = 0_usize;
        let mut equals = None;
        let mut is_sum = false;
        while let Some(kind) = self.peek() {
            match kind {
                Kind::Sign('+' | '-') if equals.is_none() => is_sum = true,
                Kind::Sign('(' | '[' | '{') | Kind::OpenSet | Kind::Begin(_) => open += 1,
                Kind::Sign(')' | ']' | '}') | Kind::CloseSet | Kind::End(_) => open = open.saturating_sub(1),
                Kind::Relation(Relation::Equal) if open == 0 => equals = Some(self.at),
                Kind::Comma | Kind::Semicolon | Kind::Conjunction | Kind::NewLine if open == 0 => break,
                _ => {}
            }
            self.at += 1;
        }
        let end = self.at;
        // What is given a value is a name, not a sum.
        if let Some(equals) = equals.filter(|equals| *equals > start && !is_sum) {
            self.at = equals + 1;
            self.bars = 0;
            let value = self.member();
            if self.at == end
                && let Some(value) = value
            {
                let name = Expr::Text(self.source(start, equals));
                return Expr::Relation(Box::new(name), vec![(Relation::Equal, value)]);
            }
        }
        self.at = end;
        self.bars = 0;
        Expr::Text(self.source(start, end))
    }

    /// The text of these tokens.
    fn source(&self, start: usize, end: usize) -> String {
        match (self.tokens.get(start), self.tokens[start..end].last()) {
            (Some(first), Some(last)) => self.text[first.start..last.end].trim().to_string(),
            _ => String::new(),
        }
    }

    fn item(&mut self) -> Option<Expr> {
        let start = self.at;
        let mut all_noise = true;
        while let Some(Kind::Word(word)) = self.peek() {
            all_noise &= NOISE.contains(&word.to_lowercase().as_str());
            self.at += 1;
        }
        let name = || Expr::Text(self.source(start, self.at));
        if self.at > start {
            if self.at_end_of_item() {
                return Some(name());
            }
            match self.peek() {
                Some(Kind::Relation(Relation::Equal) | Kind::Sign(':')) => {
                    let name = name();
                    self.at += 1;
                    let value = self.member()?;
                    return Some(Expr::Relation(Box::new(name), vec![(Relation::Equal, value)]));
                }
                _ if all_noise => {}
                _ => return None,
            }
        }
        // `≈ 5`
        if self.at == start && matches!(self.peek(), Some(Kind::Relation(Relation::Equal | Relation::Approximately))) {
            self.at += 1;
        }
        let first = self.member()?;
        let mut rest = Vec::new();
        while let Some(Kind::Relation(relation)) = self.peek() {
            let relation = *relation;
            self.at += 1;
            let start = self.at;
            while matches!(self.peek(), Some(Kind::Word(_))) {
                self.at += 1;
            }
            // `x = \text{even}`
            let value = if self.at > start && self.at_end_of_item() {
                Expr::Text(self.source(start, self.at))
            } else {
                self.at = start;
                self.member()?
            };
            rest.push((relation, value));
        }
        Some(if rest.is_empty() { first } else { Expr::Relation(Box::new(first), rest) })
    }

    fn member(&mut self) -> Option<Expr> {
        let first = self.quantity()?;
        match self.peek() {
            Some(Kind::Command(name)) if name == "cup" => {
                let mut items = vec![first];
                while self.is(&Kind::Command("cup".into())) {
                    self.at += 1;
                    items.push(self.quantity()?);
                }
                Some(Expr::Union(items))
            }
            Some(Kind::Command(name)) if matches!(name.as_str(), "cap" | "setminus" | "backslash" | "mid" | "nmid") => {
                let name = name.clone();
                self.at += 1;
                Some(Expr::Opaque(name, vec![first, self.quantity()?]))
            }
            Some(Kind::Sign(':')) => {
                let mut items = vec![first];
                while self.take_sign(':') {
                    items.push(self.quantity()?);
                }
                Some(Expr::Ratio(items))
            }
            _ => Some(first),
        }
    }

    fn quantity(&mut self) -> Option<Expr> {
        let mut value = self.sum()?;
        while let Some(Kind::Word(word)) = self.peek() {
            if unit::is_percent(word) {
                value = Expr::Percent(Box::new(value));
            } else if let Some(scale) = unit::scale(word) {
                value = Expr::Product(vec![value, Expr::integer(scale)]);
            } else {
                return Some(Expr::Quantity(Box::new(value), self.unit()?));
            }
            self.at += 1;
        }
        if self.is(&Kind::Command("pmod".into())) {
            self.at += 1;
            let modulus = self.script_text()?;
            return Some(Expr::Quantity(Box::new(value), format!("mod {modulus}")));
        }
        Some(value)
    }

    /// Words up to the end of the item, with powers and `/` between them.
    fn unit(&mut self) -> Option<String> {
        let mut words: Vec<String> = Vec::new();
        let mut power = "";
        while !self.at_end_of_item() && !matches!(self.peek(), Some(Kind::Relation(_))) {
            match self.peek()? {
                Kind::Word(word) if unit::changes_the_number(word) => return None,
                Kind::Word(word) if matches!(word.to_lowercase().as_str(), "square" | "sq") => power = "^2",
                Kind::Word(word) if matches!(word.to_lowercase().as_str(), "cubic" | "cu") => power = "^3",
                Kind::Word(word) => {
                    words.push(unit::canonical(word) + power);
                    power = "";
                }
                Kind::Letter(letter) => words.push(unit::canonical(letter)),
                Kind::Sign('/') => words.push("/".into()),
                Kind::Sign('*') => {}
                Kind::Sign('^') => {
                    self.at += 1;
                    let script = self.script_text()?;
                    if let Some(last) = words.last_mut() {
                        last.push('^');
                        last.push_str(&script);
                    }
                    continue;
                }
                _ => return None,
            }
            self.at += 1;
        }
        if power == "^2" && words.is_empty() {
            words.push("square".into());
        }
        Some(words.join(" "))
    }

    /// The text of a script: what stands in its braces, or the one token.
    fn script_text(&mut self) -> Option<String> {
        let start = self.at;
        if self.take_sign('{') {
            let mut open = 1_usize;
            while open > 0 {
                match self.peek()? {
                    Kind::Sign('{') => open += 1,
                    Kind::Sign('}') => open -= 1,
                    _ => {}
                }
                self.at += 1;
            }
        } else {
            self.peek()?;
            self.at += 1;
        }
        let text = self.source(start, self.at);
        Some(text.chars().filter(|c| !matches!(c, '{' | '}') && !c.is_whitespace()).collect())
    }

    fn sum(&mut self) -> Option<Expr> {
        let mut terms = Vec::new();
        loop {
            let mut negative = false;
            let mut plus_minus = None;
            let mut signs = 0;
            loop {
                match self.peek() {
                    Some(Kind::Sign('+')) => {}
                    Some(Kind::Sign('-')) => negative = !negative,
                    Some(Kind::PlusMinus) => plus_minus = Some(false),
                    Some(Kind::MinusPlus) => plus_minus = Some(true),
                    _ => break,
                }
                signs += 1;
                self.at += 1;
            }
            if signs == 0 && !terms.is_empty() {
                break;
            }
            let mut term = self.product()?;
            if negative {
                term = Expr::Negative(Box::new(term));
            }
            if let Some(flipped) = plus_minus {
                term = Expr::PlusMinus(flipped, Box::new(term));
            }
            terms.push(term);
        }
        if terms.len() == 1 { terms.pop() } else { Some(Expr::Sum(terms)) }
    }

    fn product(&mut self) -> Option<Expr> {
        let mut factors = vec![self.factor()?];
        let finish = |mut factors: Vec<Expr>| {
            if factors.len() == 1 { factors.pop() } else { Some(Expr::Product(factors)) }
        };
        loop {
            match self.peek() {
                Some(Kind::Sign('*')) => {
                    self.at += 1;
                    let factor = self.signed_factor()?;
                    factors.push(factor);
                }
                Some(Kind::Sign('/')) => {
                    self.at += 1;
                    let divisor = self.signed_factor()?;
                    let value = finish(std::mem::take(&mut factors))?;
                    // The nesting grows on the left with every division.
                    self.depth_of_chain(&value)?;
                    factors.push(Expr::Quotient(Box::new(value), Box::new(divisor)));
                }
                Some(Kind::Command(name)) if name == "bmod" || name == "mod" => {
                    self.at += 1;
                    let divisor = self.signed_factor()?;
                    let value = finish(std::mem::take(&mut factors))?;
                    self.depth_of_chain(&value)?;
                    factors.push(Expr::Apply(Function::Modulo, vec![value, divisor]));
                }
                _ if factors.len() == 1 && self.at_fraction_of_mixed_number(&factors[0]) => {
                    let whole = factors.pop()?;
                    let fraction = if matches!(self.peek(), Some(Kind::Number(_))) {
                        let above = self.factor()?;
                        self.expect_sign('/')?;
                        Expr::Quotient(Box::new(above), Box::new(self.factor()?))
                    } else {
                        self.factor()?
                    };
                    factors.push(Expr::Sum(vec![whole, fraction]));
                }
                // `2^6 3^5`
                Some(Kind::Number(_)) if matches!(factors.last(), Some(Expr::Power(..))) => {
                    let factor = self.factor()?;
                    factors.push(factor);
                }
                Some(kind) if self.starts_factor(kind) => {
                    let factor = self.factor()?;
                    factors.push(factor);
                }
                _ => return finish(factors),
            }
        }
    }

    /// Refuses chains such as `1/2/3/…` that are too long for what walks over them.
    fn depth_of_chain(&self, value: &Expr) -> Option<()> {
        let mut depth = 0;
        let mut value = value;
        while let Expr::Quotient(inner, _) | Expr::Negative(inner) | Expr::Power(inner, _) = value {
            value = inner;
            depth += 1;
        }
        (depth < DEEPEST).then_some(())
    }

    /// Whether what follows this whole number makes it a mixed one: `1\frac{1}{2}`, `1 1/2`.
    fn at_fraction_of_mixed_number(&self, whole: &Expr) -> bool {
        let is_whole = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !matches!(whole, Expr::Number(number) if number.decimals.is_none() && number.value.as_integer().is_some())
            || !matches!(self.tokens.get(self.at.wrapping_sub(1)), Some(Token { kind: Kind::Number(text), .. }) if is_whole(text))
        {
            return false;
        }
        let number = |ahead| matches!(self.peek_at(ahead), Some(Kind::Number(text)) if is_whole(text));
        let sign = |ahead, sign| self.peek_at(ahead) == Some(&Kind::Sign(sign));
        match self.peek() {
            Some(Kind::Number(_)) => number(0) && sign(1, '/') && number(2),
            Some(Kind::Command(name)) if name == "frac" => {
                let braced = sign(1, '{') && number(2) && sign(3, '}');
                let after = if braced { 4 } else { 2 };
                let first = braced || number(1);
                let two_digits = matches!(self.peek_at(1), Some(Kind::Number(text)) if text.len() == 2);
                let second = sign(after, '{') && number(after + 1) && sign(after + 2, '}') || number(after);
                first && (second || two_digits)
            }
            _ => false,
        }
    }

    fn starts_factor(&self, kind: &Kind) -> bool {
        match kind {
            Kind::Letter(_) | Kind::Begin(_) | Kind::Sign('(' | '{') => true,
            Kind::Sign('|') => self.bars == 0,
            Kind::Sign('<') => false,
            Kind::Command(name) => !matches!(
                name.as_str(),
                "cup" | "cap" | "setminus" | "backslash" | "mid" | "nmid" | "mod" | "bmod" | "pmod" | "rfloor" | "rceil"
            ),
            // `x2`, but not `3 4`.
            Kind::Number(_) => {
                !matches!(self.tokens.get(self.at.wrapping_sub(1)), Some(Token { kind: Kind::Number(_) | Kind::Sign('/'), .. }))
            }
            _ => false,
        }
    }

    fn signed_factor(&mut self) -> Option<Expr> {
        let mut negative = false;
        while matches!(self.peek(), Some(Kind::Sign('-' | '+'))) {
            negative ^= self.is_sign('-');
            self.at += 1;
        }
        let factor = self.factor()?;
        Some(if negative { Expr::Negative(Box::new(factor)) } else { factor })
    }

    fn factor(&mut self) -> Option<Expr> {
        self.deeper(|parser| {
            let primary = parser.primary()?;
            parser.postfixes(primary)
        })
    }

    fn postfixes(&mut self, mut value: Expr) -> Option<Expr> {
        for _ in 0..DEEPEST {
            value = match self.peek() {
                Some(Kind::Sign('!')) => {
                    self.at += 1;
                    Expr::Apply(Function::Factorial, vec![value])
                }
                Some(Kind::Sign('%')) => {
                    self.at += 1;
                    Expr::Percent(Box::new(value))
                }
                Some(Kind::Degree) => {
                    self.at += 1;
                    self.degrees(value)?
                }
                Some(Kind::Sign('_')) => {
                    self.at += 1;
                    let script = self.script_text()?;
                    match value {
                        Expr::Number(number) => Expr::Based(number.value.to_string(), script),
                        other => Expr::Opaque(format!("_{script}"), vec![other]),
                    }
                }
                Some(Kind::Sign('^')) => {
                    self.at += 1;
                    if self.is(&Kind::Degree) {
                        self.at += 1;
                        self.degrees(value)?
                    } else if self.is_sign('{') && self.peek_at(1) == Some(&Kind::Degree) {
                        self.at += 2;
                        self.expect_sign('}')?;
                        self.degrees(value)?
                    } else if self.is_sign('{') && matches!(self.peek_at(1), Some(Kind::Word(_))) {
                        self.script_text()?; // `17^{th}`
                        value
                    } else {
                        Expr::Power(Box::new(value), Box::new(self.exponent()?))
                    }
                }
                _ => return Some(value),
            };
        }
        None
    }

    /// A degree sign, and the scale after it.
    fn degrees(&mut self, value: Expr) -> Option<Expr> {
        if matches!(self.peek(), Some(Kind::Letter(letter) | Kind::Word(letter)) if matches!(letter.as_str(), "C" | "F")) {
            let scale = self.script_text()?;
            return Some(Expr::Quantity(Box::new(value), format!("degree {}", unit::canonical(&scale))));
        }
        Some(Expr::Degrees(Box::new(value)))
    }

    fn exponent(&mut self) -> Option<Expr> {
        self.deeper(|parser| {
            let script = if parser.take_sign('-') {
                Expr::Negative(Box::new(parser.primary()?))
            } else {
                parser.take_sign('+');
                parser.primary()?
            };
            if parser.take_sign('^') {
                return Some(Expr::Power(Box::new(script), Box::new(parser.exponent()?)));
            }
            Some(script)
        })
    }

    fn primary(&mut self) -> Option<Expr> {
        let kind = self.peek()?.clone();
        self.at += 1;
        match kind {
            Kind::Number(text) => self.number(&text),
            Kind::Letter(letter) => self.letter(letter),
            Kind::Sign(open @ ('(' | '[')) => self.brackets(open),
            Kind::Sign('{') => {
                let list = self.deeper(|parser| parser.list(false))?;
                self.expect_sign('}')?;
                if list.items.len() > 1 { Some(Expr::Set(list.items)) } else { list.into_expr() }
            }
            Kind::OpenSet if self.at_condition() => {
                // `\{x | x > 2\}` is its condition.
                self.at += 2;
                let list = self.deeper(|parser| parser.list(false))?;
                self.is(&Kind::CloseSet).then(|| self.at += 1)?;
                list.into_expr()
            }
            Kind::OpenSet => {
                let list = self.deeper(|parser| parser.list(false))?;
                self.is(&Kind::CloseSet).then(|| self.at += 1)?;
                Some(Expr::Set(list.items))
            }
            Kind::Sign('<') => {
                let list = self.deeper(|parser| parser.list(false))?;
                self.expect_sign('>')?;
                Some(Expr::Tuple('<', '>', list.items))
            }
            Kind::Sign('|') => {
                self.bars += 1;
                let inner = self.deeper(Self::sum)?;
                self.bars -= 1;
                self.expect_sign('|')?;
                Some(Expr::Apply(Function::Abs, vec![inner]))
            }
            Kind::Begin(name) => self.environment(&name),
            Kind::Command(name) => self.command(&name),
            _ => None,
        }
    }

    /// Whether the set that has just been opened is given by a condition.
    fn at_condition(&self) -> bool {
        let bar = match self.peek_at(1) {
            Some(Kind::Sign('|' | ':')) => true,
            Some(Kind::Command(name)) => name == "mid",
            _ => false,
        };
        bar && matches!(self.peek(), Some(Kind::Letter(_)))
    }

    fn number(&mut self, text: &str) -> Option<Expr> {
        let (digits, exponent) = text.split_once('e').unwrap_or((text, "0"));
        let exponent: i64 = exponent.trim_start_matches('+').parse().ok()?;
        let (whole, places) = digits.split_once('.').unwrap_or((digits, ""));
        let all = format!("{whole}{places}");
        let last_place = exponent.checked_sub(i64::try_from(places.len()).ok()?)?;
        let mut value = if all.is_empty() { Rational::integer(0) } else { Rational::from_digits(&all)? };
        // A zero stays zero whatever its exponent; Rational refuses large powers.
        value = value.multiply(&Rational::power_of_ten(last_place)?)?;
        if self.is(&Kind::Command("overline".into())) && digits.contains('.') {
            return self.repeating(value, places.len());
        }
        let significant = all.trim_start_matches('0').len();
        let decimals = digits.contains('.').then_some(Decimals { significant, last_place });
        Some(Expr::Number(Number { value, decimals }))
    }

    /// `0.1\overline{6}`.
    fn repeating(&mut self, value: Rational, places: usize) -> Option<Expr> {
        self.at += 1;
        let digits = self.script_text()?;
        let period = i64::try_from(digits.len()).ok()?;
        let nines = Rational::power_of_ten(period)?.add(&Rational::integer(-1))?;
        let tail = Rational::from_digits(&digits)?
            .divide(&nines)?
            .divide(&Rational::power_of_ten(i64::try_from(places).ok()?)?)?;
        Some(Expr::Number(Number { value: value.add(&tail)?, decimals: None }))
    }

    fn letter(&mut self, letter: String) -> Option<Expr> {
        let mut name = letter;
        let mut plain = true;
        loop {
            if self.is_sign('_') {
                self.at += 1;
                name = format!("{name}_{{{}}}", self.script_text()?);
            } else if self.is_sign('\'') {
                self.at += 1;
                name.push('\'');
            } else if self.is_sign('^') && self.peek_at(1) == Some(&Kind::Sign('\'')) {
                self.at += 2;
                name.push('\'');
            } else if self.is_sign('^') && self.is_ahead(1, '{') && self.is_ahead(2, '\'') {
                self.at += 2;
                while self.take_sign('\'') {
                    name.push('\'');
                }
                self.expect_sign('}')?;
            } else {
                break;
            }
            plain = false;
            if name.len() > 200 {
                return None;
            }
        }
        match name.as_str() {
            "pi" if plain => return Some(Expr::Constant(Constant::Pi)),
            "e" if plain => return Some(Expr::Constant(Constant::E)),
            "i" if plain => return Some(Expr::Constant(Constant::I)),
            _ => {}
        }
        // A letter right before brackets: a function's value, or a product.
        if self.is_sign('(') && !self.tokens[self.at].spaced {
            let start = self.at;
            self.at += 1;
            let list = self.deeper(|parser| parser.list(false))?;
            if self.take_sign(')') && !list.items.is_empty() {
                return Some(Expr::Call(name, list.items));
            }
            self.at = start;
        }
        Some(Expr::Name(name))
    }

    fn brackets(&mut self, open: char) -> Option<Expr> {
        let bars = std::mem::take(&mut self.bars);
        let list = self.deeper(|parser| parser.list(false))?;
        self.bars = bars;
        let close = match self.peek()? {
            Kind::Sign(close @ (')' | ']')) => *close,
            _ => return None,
        };
        self.at += 1;
        let matching = matches!((open, close), ('(', ')') | ('[', ']'));
        match list.items.len() {
            0 => None,
            1 if matching => list.into_expr(),
            1 => None,
            _ if list.conjunctions > 0 => list.into_expr(),
            _ => Some(Expr::Tuple(open, close, list.items)),
        }
    }

    fn environment(&mut self, name: &str) -> Option<Expr> {
        if name == "cases" {
            let list = self.deeper(|parser| parser.list(false))?;
            matches!(self.peek()?, Kind::End(_)).then(|| self.at += 1)?;
            return list.into_expr();
        }
        if !(name.ends_with("matrix") || name == "array") {
            return None;
        }
        let mut rows = vec![Vec::new()];
        loop {
            match self.peek()? {
                Kind::Sign('&') => self.at += 1,
                Kind::NewLine => {
                    self.at += 1;
                    rows.push(Vec::new());
                }
                Kind::End(_) => {
                    self.at += 1;
                    break;
                }
                _ => {
                    let cell = self.deeper(Self::sum)?;
                    rows.last_mut()?.push(cell);
                    matches!(self.peek()?, Kind::Sign('&') | Kind::NewLine | Kind::End(_)).then_some(())?;
                }
            }
        }
        rows.retain(|row| !row.is_empty());
        let columns = rows.first()?.len();
        if rows.iter().any(|row| row.len() != columns) {
            return None;
        }
        let matrix = Expr::Matrix(rows);
        Some(if name == "vmatrix" { Expr::Apply(Function::Determinant, vec![matrix]) } else { matrix })
    }

    /// An argument of a command: what stands in braces, or one token. TeX would take the first digit of a number;
    /// who writes `\sqrt61` means 61.
    fn argument(&mut self) -> Option<Expr> {
        self.deeper(Self::primary)
    }

    /// The two arguments of a fraction. `\frac12` is a half, and what `\frac123` is, nobody knows.
    fn two_arguments(&mut self) -> Option<(Expr, Expr)> {
        if let Some(Kind::Number(text)) = self.peek()
            && text.len() > 1
        {
            if text.len() > 2 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            let (above, below) = (text[..1].to_string(), text[1..].to_string());
            self.at += 1;
            return Some((self.number(&above)?, self.number(&below)?));
        }
        let above = self.argument()?;
        if matches!(self.peek(), Some(Kind::Number(text)) if text.len() > 1) {
            return None;
        }
        Some((above, self.argument()?))
    }

    fn command(&mut self, name: &str) -> Option<Expr> {
        match name {
            "frac" => {
                let (above, below) = self.two_arguments()?;
                Some(Expr::Quotient(Box::new(above), Box::new(below)))
            }
            "binom" => {
                let (above, below) = self.two_arguments()?;
                Some(Expr::Apply(Function::Binomial, vec![above, below]))
            }
            "sqrt" => {
                if self.take_sign('[') {
                    let which = self.deeper(Self::sum)?;
                    self.expect_sign(']')?;
                    let inner = self.argument()?;
                    return Some(Expr::Apply(Function::Root, vec![inner, which]));
                }
                Some(Expr::Apply(Function::Sqrt, vec![self.argument()?]))
            }
            "cbrt" => Some(Expr::Apply(Function::Root, vec![self.argument()?, Expr::integer(3)])),
            "infty" => Some(Expr::Constant(Constant::Infinity)),
            "emptyset" | "varnothing" => Some(Expr::Set(Vec::new())),
            "lfloor" | "lceil" => {
                let inner = self.deeper(Self::sum)?;
                let close = if name == "lfloor" { "rfloor" } else { "rceil" };
                self.is(&Kind::Command(close.into())).then(|| self.at += 1)?;
                let function = if name == "lfloor" { Function::Floor } else { Function::Ceiling };
                Some(Expr::Apply(function, vec![inner]))
            }
            "sum" | "prod" | "int" | "lim" | "iint" | "oint" => self.with_limits(name),
            "cup" | "cap" | "setminus" | "backslash" | "pmod" | "begin" | "rfloor" | "rceil" | "frown" => None,
            _ => match function(name) {
                Some(function) => self.application(function),
                None if self.is_sign('{') => {
                    let start = self.at;
                    let argument = self.argument();
                    // An argument that is no formula, as in `\overline{AB}`, is taken as its text.
                    let argument = argument.or_else(|| {
                        self.at = start;
                        self.script_text().map(Expr::Text)
                    })?;
                    Some(Expr::Opaque(name.into(), vec![argument]))
                }
                None => Some(Expr::Opaque(name.into(), Vec::new())),
            },
        }
    }

    fn with_limits(&mut self, name: &str) -> Option<Expr> {
        let mut parts = Vec::new();
        for _ in 0..2 {
            if self.take_sign('_') {
                parts.push(Expr::Text(format!("_{}", self.script_text()?)));
            } else if self.take_sign('^') {
                parts.push(Expr::Text(format!("^{}", self.script_text()?)));
            }
        }
        parts.push(self.deeper(Self::product)?);
        Some(Expr::Opaque(name.into(), parts))
    }

    fn application(&mut self, mut function: Function) -> Option<Expr> {
        let mut base = None;
        let mut power = None;
        for _ in 0..2 {
            if self.take_sign('_') {
                base = Some(self.argument()?);
            } else if self.take_sign('^') {
                power = Some(self.exponent()?);
            }
        }
        let mut arguments = self.arguments(function)?;
        let is_minus_one = |power: &Expr| matches!(power, Expr::Negative(one) if **one == Expr::integer(1));
        if power.as_ref().is_some_and(is_minus_one) {
            if let Some(inverse) = inverse(function) {
                function = inverse;
                power = None;
            }
        }
        if let (Function::Log, Some(base)) = (function, base) {
            arguments.truncate(1);
            arguments.push(base);
        }
        let value = Expr::Apply(function, arguments);
        Some(match power {
            Some(power) => Expr::Power(Box::new(value), Box::new(power)),
            None => value,
        })
    }

    fn arguments(&mut self, function: Function) -> Option<Vec<Expr>> {
        if matches!(self.peek(), Some(Kind::Sign('('))) {
            self.at += 1;
            let bars = std::mem::take(&mut self.bars);
            let list = self.deeper(|parser| parser.list(false))?;
            self.bars = bars;
            self.expect_sign(')')?;
            let many = matches!(
                function,
                Function::Minimum | Function::Maximum | Function::Gcd | Function::Lcm | Function::Modulo | Function::Binomial
            );
            return (list.items.len() == 1 || many && !list.items.is_empty()).then_some(list.items);
        }
        if self.is_sign('{') {
            return Some(vec![self.argument()?]);
        }
        // `\sin 2x`: the factors up to a sign or the next function.
        self.deeper(|parser| {
            let mut factors = Vec::new();
            loop {
                match parser.peek() {
                    Some(Kind::Command(name)) if super::parse::function(name).is_some() && !factors.is_empty() => break,
                    Some(Kind::Sign('(')) if !factors.is_empty() => break,
                    Some(kind) if factors.is_empty() || parser.starts_factor(kind) => {
                        let factor = parser.factor()?;
                        factors.push(factor);
                    }
                    _ => break,
                }
            }
            Some(vec![if factors.len() == 1 { factors.pop()? } else { Expr::Product(factors) }])
        })
    }
}

fn function(name: &str) -> Option<Function> {
    Some(match name {
        "sin" => Function::Sin,
        "cos" => Function::Cos,
        "tan" | "tg" => Function::Tan,
        "cot" | "ctg" => Function::Cot,
        "sec" => Function::Sec,
        "csc" => Function::Csc,
        "arcsin" | "asin" => Function::Arcsin,
        "arccos" | "acos" => Function::Arccos,
        "arctan" | "atan" => Function::Arctan,
        "sinh" => Function::Sinh,
        "cosh" => Function::Cosh,
        "tanh" => Function::Tanh,
        "ln" => Function::Ln,
        "log" | "lg" => Function::Log,
        "exp" => Function::Exp,
        "abs" => Function::Abs,
        "floor" => Function::Floor,
        "ceil" => Function::Ceiling,
        "min" => Function::Minimum,
        "max" => Function::Maximum,
        "gcd" => Function::Gcd,
        "lcm" => Function::Lcm,
        "det" => Function::Determinant,
        _ => return None,
    })
}

fn inverse(function: Function) -> Option<Function> {
    Some(match function {
        Function::Sin => Function::Arcsin,
        Function::Cos => Function::Arccos,
        Function::Tan => Function::Arctan,
        _ => return None,
    })
}
