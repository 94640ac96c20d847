//! `cargo xtask book`: the book as pages.
//!
//! That its programs run, the doc tests of `bartender` see. That its links lead somewhere and that the tests of which
//! it speaks exist, the tests here see; they need no mdbook. It does not publish anything.

use crate::miri::succeeds;
use crate::step::{Failure, Runner, cargo, target};
use std::process::Command;

/// `cargo xtask book`.
pub(crate) fn book() -> Result<(), Failure> {
    let mut steps = Runner::default();
    if !succeeds(Command::new("mdbook").arg("--version")) {
        steps.run(
            "install mdbook",
            &mut cargo(["install", "--locked", "mdbook"]),
        )?;
    }
    let pages = target("book");
    let mut build = Command::new("mdbook");
    build.args(["build", "book", "--dest-dir"]).arg(&pages);
    steps.run("book", &mut build)?;
    println!("{}", pages.join("index.html").display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::step::root;
    use std::fs;
    use std::path::PathBuf;

    /// The chapters with their texts.
    fn chapters() -> Vec<(PathBuf, String)> {
        let folder = root().join("book/src");
        let files = fs::read_dir(folder).expect("the book is there");
        let files = files.map(|file| file.expect("can be listed").path());
        let chapters = files.filter(|path| path.extension().is_some_and(|e| e == "md"));
        chapters
            .map(|path| {
                let text = fs::read_to_string(&path).expect("can be read");
                (path, text)
            })
            .collect()
    }

    /// What stands between `open` and `close`, each time.
    fn between<'a>(text: &'a str, open: &'a str, close: char) -> impl Iterator<Item = &'a str> {
        let parts = text.split(open).skip(1);
        parts.filter_map(move |part| part.split_once(close).map(|(inside, _)| inside))
    }

    /// As mdbook makes it of a heading.
    fn anchor(heading: &str) -> String {
        let letters = heading.trim_start_matches('#').trim().to_lowercase();
        let letters = letters.chars().filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
            _ => None,
        });
        letters.collect()
    }

    #[test]
    fn links_lead_somewhere_and_every_chapter_is_listed() {
        let chapters = chapters();
        assert!(chapters.len() > 5);
        let mut listed = Vec::new();
        for (path, text) in &chapters {
            for link in between(text, "](", ')').filter(|link| !link.contains("://")) {
                let (file, part) = link.split_once('#').unwrap_or((link, ""));
                let to = match file {
                    "" => path.clone(),
                    file => path.with_file_name(file),
                };
                let there = chapters.iter().find(|(path, _)| *path == to);
                let Some((_, there)) = there else {
                    panic!("{}: no file for {link}", path.display());
                };
                let headings = there.lines().filter(|line| line.starts_with('#'));
                let found = part.is_empty() || headings.map(anchor).any(|a| a == part);
                assert!(found, "{}: no heading for {link}", path.display());
                if path.ends_with("SUMMARY.md") {
                    listed.push(to);
                }
            }
        }
        for (path, _) in &chapters {
            let known = path.ends_with("SUMMARY.md") || listed.contains(path);
            assert!(known, "{} is not in SUMMARY.md", path.display());
        }
    }

    #[test]
    fn every_file_and_test_that_is_named_exists() {
        let mut named = 0;
        for (path, text) in chapters() {
            for name in between(&text, "`bartender", '`').map(|rest| format!("bartender{rest}")) {
                let (file, function) = match name.split_once("::") {
                    Some((file, function)) if file.ends_with(".rs") => (file, Some(function)),
                    None if name.ends_with(".rs") => (name.as_str(), None),
                    _ => continue,
                };
                named += 1;
                let source = fs::read_to_string(root().join(file));
                let Ok(source) = source else {
                    panic!("{}: there is no {file}", path.display());
                };
                let found = function.is_none_or(|f| source.contains(&format!("fn {f}(")));
                assert!(found, "{}: {name} does not exist", path.display());
            }
        }
        assert!(named > 50, "only {named} names were recognised");
    }
}
