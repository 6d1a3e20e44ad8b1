//! As much of Markdown as the documents use: headings, links, code spans and fenced blocks.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// A fenced block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) language: String,
    /// The line of its first line of content.
    pub(super) line: usize,
    pub(super) text: String,
}

/// What a document has besides its words. Each item has its line.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) anchors: BTreeSet<String>,
    pub(super) links: Vec<(usize, String)>,
    pub(super) code: Vec<(usize, String)>,
    pub(super) blocks: Vec<Block>,
}

impl Document {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut document = Self::default();
        let mut prose = String::new();
        let mut open: Option<(usize, Block)> = None;
        for (number, line) in (1..).zip(text.lines()) {
            let indentation = line.len() - line.trim_start().len();
            match (&mut open, line.trim_start().strip_prefix("```")) {
                (None, Some(language)) => {
                    let language = language.trim().to_owned();
                    if language.is_empty() {
                        return Err(format!("line {number}: a block names no language"));
                    }
                    let block = Block { language, line: number + 1, text: String::new() };
                    open = Some((indentation, block));
                }
                (Some(_), Some(_)) => document.blocks.extend(open.take().map(|(_, block)| block)),
                (Some((cut, block)), None) => {
                    block.text.push_str(line.get(*cut..).unwrap_or_default());
                    block.text.push('\n');
                }
                (None, None) => {
                    document.heading(line);
                    if line.starts_with('[') && line.contains("]: ") {
                        return Err(format!("line {number}: a link by reference is not checked"));
                    }
                    prose.push_str(line);
                }
            }
            // One line of prose for each line of the file, so that lines can be counted.
            prose.push('\n');
        }
        if let Some((_, block)) = open {
            return Err(format!("line {}: the block has no end", block.line));
        }
        document.spans(&prose);
        Ok(document)
    }

    /// Adds the anchor of a heading, as GitHub makes it.
    fn heading(&mut self, line: &str) {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            return;
        }
        let kept = title.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let anchor: String =
            kept.map(|c| if c == ' ' { '-' } else { c }).flat_map(char::to_lowercase).collect();
        let repeated = (1..).map(|number| format!("{anchor}-{number}"));
        let free = std::iter::once(anchor.clone())
            .chain(repeated)
            .find(|anchor| !self.anchors.contains(anchor));
        self.anchors.extend(free);
    }

    /// Adds the code spans and links of the text outside of blocks.
    fn spans(&mut self, prose: &str) {
        let mut line = 1;
        let mut plain = String::new();
        for (index, piece) in prose.split('`').enumerate() {
            if index % 2 == 1 {
                self.code.push((line, piece.split_whitespace().collect::<Vec<_>>().join(" ")));
                plain.extend(piece.chars().filter(|c| *c == '\n'));
            } else {
                plain.push_str(piece);
            }
            line += piece.matches('\n').count();
        }
        for (at, _) in plain.match_indices("](") {
            let target = &plain[at + 2..];
            let target = &target[..target.find(')').unwrap_or(target.len())];
            self.links.push((1 + plain[..at].matches('\n').count(), target.to_owned()));
        }
    }
}

/// The path without `.` and `..`.
pub(super) fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

/// Whether a code span means a file or a folder of the project: a relative path that begins with
/// one of its folders or of those below `src`, or the path of a Rust source.
pub(super) fn is_repository_path(code: &str, root: &Path) -> bool {
    let Some((first, _)) = code.split_once('/') else { return false };
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let known = [root, &root.join("src")].iter().any(|folder| folder.join(first).is_dir());
    let is_ours = known && first != "target" && !first.is_empty();
    code.chars().all(plain) && !code.starts_with('/') && (is_ours || code.ends_with(".rs"))
}

#[test]
fn links_code_and_blocks_are_found_with_their_lines() {
    let text = "# A `b` c\n\nsee [the\nfile](a.md#x) and `[no](link)`\n\n1. x\n\n   ```sh\n   ls\n   ```\n## A b c\n";
    let document = Document::parse(text).expect("well-formed");
    assert_eq!(document.links, [(4, "a.md#x".to_owned())]);
    assert_eq!(document.code, [(1, "b".to_owned()), (4, "[no](link)".to_owned())]);
    let block = Block { language: "sh".to_owned(), line: 9, text: "ls\n".to_owned() };
    assert_eq!(document.blocks, [block]);
    assert_eq!(document.anchors, BTreeSet::from(["a-b-c".to_owned(), "a-b-c-1".to_owned()]));
    assert!(Document::parse("```sh\nls\n").is_err());
    assert!(Document::parse("```\nls\n```\n").is_err());
    assert_eq!(normal(Path::new("docs/../a/./b.md")), Path::new("a/b.md"));
}
