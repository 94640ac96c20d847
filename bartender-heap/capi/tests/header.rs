//! The header and the library say the same: each function that is declared is
//! there, with as many arguments, and the other way round.

use std::collections::BTreeMap;
use std::path::Path;

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Functions `bt_…` that `text` names before a parenthesis after `before`, with
/// the number of their arguments.
fn functions(text: &str, is_one: impl Fn(&str) -> bool) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for (at, _) in text.match_indices("bt_") {
        let name: String = text[at..]
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect();
        let rest = &text[at + name.len()..];
        if !rest.starts_with('(') || !is_one(&text[..at]) {
            continue;
        }
        let arguments = rest[1..rest.find(')').expect("a closing parenthesis")].trim();
        let arguments = arguments.trim_end_matches(',');
        let count = match arguments {
            "" | "void" => 0,
            some => some.split(',').count(),
        };
        found.insert(name, count);
    }
    found
}

/// The header without its comments.
fn declarations() -> String {
    let header = read("include/bartender.h");
    let mut text = String::new();
    let mut rest = &header[..];
    while let Some(start) = rest.find("/*") {
        text += &rest[..start];
        rest = &rest[start + rest[start..].find("*/").expect("the comment ends") + 2..];
    }
    text + rest
}

#[test]
fn what_the_header_declares_is_what_the_library_exports() {
    let declared = functions(&declarations(), |_| true);
    let mut exported = BTreeMap::new();
    for file in ["src/ffi_alloc.rs", "src/ffi_durable.rs", "src/ffi_heap.rs"] {
        let source = read(file);
        assert_eq!(
            source.matches("no_mangle").count(),
            source.matches("extern \"C\" fn bt_").count(),
            "{file}"
        );
        exported.extend(functions(&source, |before| {
            before.ends_with("extern \"C\" fn ")
        }));
    }
    assert!(declared.len() > 25, "{declared:?}");
    assert_eq!(declared, exported);
}

#[test]
fn every_function_has_its_text() {
    let header = read("include/bartender.h");
    let mut behind_comment = false;
    for line in header.lines() {
        let declares = line.ends_with(';') && line.contains("bt_") && line.contains('(');
        // One text may serve a function and its twin that names the heap.
        let twin = line.contains("bt_heap_") && !line.contains("bt_heap *bt_");
        if declares && !line.starts_with(' ') && !line.starts_with('#') && !twin {
            assert!(behind_comment, "`{line}` has no text");
        }
        behind_comment = line.trim_end().ends_with("*/");
    }
}
