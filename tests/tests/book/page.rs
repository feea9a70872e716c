//! A page of the book, taken apart: its code blocks, links, inline code and tables.

use std::fs;
use std::path::{Path, PathBuf};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// One Markdown file.
pub struct Page {
    pub path: PathBuf,
    pub blocks: Vec<Block>,
    /// Destinations of links and images.
    pub links: Vec<String>,
    /// Code within a line, tables included.
    pub codes: Vec<String>,
    /// Each table as rows of cells; a cell holds its inline codes.
    pub tables: Vec<Table>,
}

/// A table: what its head says, and the inline codes of every other cell.
pub struct Table {
    pub head: Vec<String>,
    pub rows: Vec<Vec<Vec<String>>>,
}

/// A fenced code block.
pub struct Block {
    /// Where it begins, counted from 1.
    pub line: usize,
    /// The info string at its commas: the language first.
    pub info: Vec<String>,
    pub text: String,
}

impl Block {
    pub fn language(&self) -> &str {
        self.info.first().map_or("", String::as_str)
    }

    pub fn has(&self, word: &str) -> bool {
        self.info[1..].iter().any(|flag| flag == word)
    }

    /// The path in `file=PATH`.
    pub fn file(&self) -> Option<&str> {
        self.info.iter().find_map(|flag| flag.strip_prefix("file="))
    }
}

pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// The README and every page of the book.
pub fn pages() -> Vec<Page> {
    let root = repository();
    let mut paths = vec![root.join("README.md")];
    let chapters = fs::read_dir(root.join("book/src")).unwrap().map(|entry| entry.unwrap().path());
    paths.extend(chapters.filter(|path| path.extension().is_some_and(|ending| ending == "md")));
    paths.sort();
    paths.iter().map(|path| Page::read(path)).collect()
}

/// One chapter by its file name.
pub fn chapter(name: &str) -> Page {
    Page::read(&repository().join("book/src").join(name))
}

impl Page {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut page = Self { path: path.into(), blocks: vec![], links: vec![], codes: vec![], tables: vec![] };
        let (mut in_block, mut cell) = (false, None::<String>);
        for (event, range) in Parser::new_ext(&text, Options::ENABLE_TABLES).into_offset_iter() {
            match event {
                Event::Start(Tag::CodeBlock(kind)) => {
                    let info = match kind {
                        CodeBlockKind::Fenced(info) => info.split(',').map(|word| word.trim().to_string()).collect(),
                        CodeBlockKind::Indented => vec![String::new()],
                    };
                    let line = text[..range.start].lines().count() + 1;
                    page.blocks.push(Block { line, info, text: String::new() });
                    in_block = true;
                }
                Event::End(TagEnd::CodeBlock) => in_block = false,
                Event::Text(part) if in_block => page.blocks.last_mut().unwrap().text += &part,
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(dest_url.to_string());
                }
                Event::Start(Tag::Table(_)) => page.tables.push(Table { head: vec![], rows: vec![] }),
                Event::Start(Tag::TableRow) => page.tables.last_mut().unwrap().rows.push(vec![]),
                Event::Start(Tag::TableCell) => {
                    cell = Some(String::new());
                    if let Some(row) = page.tables.last_mut().unwrap().rows.last_mut() {
                        row.push(vec![]);
                    }
                }
                Event::End(TagEnd::TableCell) => {
                    let table = page.tables.last_mut().unwrap();
                    if let (Some(words), true) = (cell.take(), table.rows.is_empty()) {
                        table.head.push(words);
                    }
                }
                Event::Code(code) => {
                    if let (Some(_), Some(row)) = (&cell, page.tables.last_mut().and_then(|t| t.rows.last_mut())) {
                        row.last_mut().unwrap().push(code.to_string());
                    }
                    page.codes.push(code.to_string());
                }
                Event::Text(words) => {
                    if let Some(cell) = &mut cell {
                        *cell += &words;
                    }
                }
                _ => {}
            }
        }
        page
    }

    /// `README.md` or `book/src/chapter.md`, with the line of a block.
    pub fn place(&self, block: &Block) -> String {
        format!("{}:{}", self.name(), block.line)
    }

    pub fn name(&self) -> String {
        self.path.strip_prefix(repository()).unwrap().display().to_string()
    }
}
