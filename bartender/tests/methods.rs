//! The book's tables of methods say what the sources have.
#![cfg(not(loom))]

use std::fs;
use std::path::{Path, PathBuf};

/// A type of the book and where its methods are.
const TYPES: [(&str, &[&str]); 8] = [
    ("PVec", &["vec.rs", "vec"]),
    ("PVecDeque", &["vec_deque.rs", "vec_deque"]),
    ("PString", &["string.rs", "string"]),
    ("PHashMap", &["hash_map.rs", "hash_map"]),
    ("PHashSet", &["hash_set.rs", "hash_set"]),
    ("PBTreeMap", &["btree_map.rs", "btree_map"]),
    ("PBTreeSet", &["btree_set.rs", "btree_set"]),
    ("PBox", &["pbox.rs", "pbox"]),
];

fn sources(at: &Path, found: &mut Vec<PathBuf>) {
    if at.is_dir() {
        let inside = fs::read_dir(at).expect("a folder of sources");
        inside.for_each(|entry| sources(&entry.expect("an entry").path(), found));
    } else {
        found.push(at.to_owned());
    }
}

/// The `impl` blocks of a source whose head is that of a stored value, or is not.
fn blocks(text: &str, stored: bool) -> String {
    let mut out = String::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with("impl") || line.starts_with("unsafe impl") {
            inside = line.contains("Mut<'") == stored;
        }
        if inside {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// Whether a block has the method, of its own or of a trait.
fn has(text: &str, name: &str) -> bool {
    is_public(text, name)
        || ["(", "<"]
            .iter()
            .any(|end| text.contains(&format!("    fn {name}{end}")))
}

fn is_public(text: &str, name: &str) -> bool {
    let forms = [("pub fn", "("), ("pub fn", "<"), ("pub const fn", "(")];
    forms
        .iter()
        .any(|(start, end)| text.contains(&format!("{start} {name}{end}")))
}

fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn the_book_tells_what_the_collections_have() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let book = fs::read_to_string(root.join("../book/src/methods.md")).expect("the book's page");
    let mut seen = 0;
    for (name, places) in TYPES {
        let mut files = Vec::new();
        places
            .iter()
            .for_each(|place| sources(&root.join("src").join(place), &mut files));
        let all: Vec<String> = files
            .iter()
            .map(|file| fs::read_to_string(file).expect("a source"))
            .collect();
        let [owned, stored] = [false, true]
            .map(|stored| -> String { all.iter().map(|text| blocks(text, stored)).collect() });
        let (_, page) = book
            .split_once(&format!("## `{name}`,"))
            .expect("a chapter for each type");
        let page = page.split("\n## ").next().unwrap_or(page);
        for row in page
            .lines()
            .filter(|line| line.starts_with("| `") || line.starts_with("| –"))
        {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            for (cell, text, which) in [(cells[2], &owned, "owned"), (cells[3], &stored, "stored")]
            {
                let claimed = match cell {
                    "yes" => quoted(cells[1]),
                    "no" | "by `Deref`" => {
                        let there = quoted(cells[1])
                            .into_iter()
                            .find(|method| is_public(text, method));
                        assert_eq!(
                            there, None,
                            "{name}, {which}, is said not to have it of its own"
                        );
                        continue;
                    }
                    others => quoted(others),
                };
                for method in claimed {
                    assert!(has(text, method), "{name}, {which}, has no `{method}`");
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 200, "{seen} methods");
}
