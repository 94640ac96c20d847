//! How paths, numbers and answers are printed.
//!
//! **Paths.** A path that is UTF-8 without control characters is printed as it
//! is. Any other is printed as `$'…'`, the way a shell quotes it: `\n`, `\t`,
//! `\\`, `\'`, and `\xNN` for every other byte that is no printable text. Paths
//! are absolute, so nothing else starts with `$'`, and no two paths look the
//! same. JSON holds a path that is UTF-8 exactly, and any other in its quoted
//! form.
//!
//! A reader that has seen enough (`| head`) is not an error.

use crate::error::{Error, Result};
use crate::query::Answer;
use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal, Write};

/// A path for people.
pub(crate) fn shown(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => quoted(path),
    }
}

/// A path for programs.
pub(crate) fn for_json(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) => text.to_owned(),
        Err(_) => quoted(path),
    }
}

fn quoted(path: &[u8]) -> String {
    let mut out = String::from("$'");
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => out += "\\n",
                '\t' => out += "\\t",
                '\\' => out += "\\\\",
                '\'' => out += "\\'",
                c if c.is_control() => {
                    let mut bytes = [0; 4];
                    for byte in c.encode_utf8(&mut bytes).bytes() {
                        let _ = write!(out, "\\x{byte:02x}");
                    }
                }
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out + "'"
}

/// Bytes in a unit that fits, in powers of ten.
pub(crate) fn bytes(count: u64) -> String {
    let mut amount = count as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if amount < 1000.0 {
            let digits = usize::from(unit != "B" && amount < 100.0);
            return format!("{amount:.digits$} {unit}");
        }
        amount /= 1000.0;
    }
    format!("{amount:.1} TB")
}

/// Prints to standard output what `print` writes.
pub(crate) fn print(print: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    match print(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            // What is left in the buffer has no reader: do not try again.
            let _ = out.into_parts();
            Ok(())
        }
        result => result.map_err(Error::Output),
    }
}

/// Prints what a search found. Who sits at a terminal is told when there would
/// be more, or nothing.
pub(crate) fn answer(answer: &Answer<'_>, json: bool) -> Result<()> {
    print(|out| {
        for hit in &answer.hits {
            if json {
                let hit = serde_json::json!({ "path": for_json(hit.path), "lines": hit.lines });
                writeln!(out, "{hit}")?;
            } else {
                let path = shown(hit.path);
                for line in &hit.lines {
                    writeln!(out, "{path}:{line}")?;
                }
            }
        }
        Ok(())
    })?;
    if io::stdout().is_terminal() && answer.hits.len() < answer.files.max(1) {
        let (shown, files) = (answer.hits.len(), answer.files);
        eprintln!("codesearch: {shown} of {files} files (--limit {shown})");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_paths_are_quoted_and_stay_different() {
        assert_eq!(shown(b"/a b/\xc3\xa9'\\$"), "/a b/\u{e9}'\\$");
        assert_eq!(shown(b"/a\nb"), "$'/a\\nb'");
        assert_eq!(shown(b"/a\xffb'\\\x01"), "$'/a\\xffb\\'\\\\\\x01'");
        assert_eq!(for_json(b"/a\nb"), "/a\nb");
        assert_eq!(for_json(b"/\xff"), "$'/\\xff'");
    }

    #[test]
    fn amounts() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(54_321), "54.3 kB");
        assert_eq!(bytes(543_210_000), "543 MB");
    }
}
