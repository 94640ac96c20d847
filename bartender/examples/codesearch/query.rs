//! Which files hold all the words, and which of them is best.
//!
//! **Ranking.** Okapi BM25 with k1 = 1.2 and b = 0.75, where the number of
//! *lines* a word stands on takes the place of its number of occurrences, and a
//! file's number of lines that of its length:
//!
//! ```text
//! score(file) = sum over words of  idf × n × 2.2 / (n + 1.2 × (0.25 + 0.75 × lines / average lines))
//! idf(word)   = ln(1 + (N - m + 0.5) / (m + 0.5))
//! ```
//!
//! n: lines of the file that hold the word; N: files indexed; m: files that hold
//! the word. So a file is the better the more of its lines hold the words, the
//! shorter it is, and a rare word weighs more than a common one. Files of equal
//! score stand in the order of their paths' bytes. Everything is counted over
//! living files, so the order does not depend on how the index came about.

use crate::model::{Index, State, Totals};
use crate::postings::{Place, places};
use std::cmp::Ordering;

/// A file that holds all the words.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hit<'a> {
    /// Its path's bytes.
    pub(crate) path: &'a [u8],
    /// The lines with at least one of the words, ascending.
    pub(crate) lines: Vec<u32>,
}

/// What a search found.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    /// The best files, best first.
    pub(crate) hits: Vec<Hit<'a>>,
    /// How many files there would be without a limit.
    pub(crate) files: usize,
}

struct Candidate<'a> {
    path: &'a [u8],
    lines: u32,
    /// One for each word.
    places: Vec<Place<'a>>,
    score: f64,
}

/// The best `limit` files that hold all of `words`.
pub(crate) fn search<'a>(index: &'a Index, words: &[String], limit: usize) -> Answer<'a> {
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    words.sort_unstable();
    words.dedup();
    if words.is_empty() {
        return Answer {
            hits: Vec::new(),
            files: 0,
        };
    }

    let mut totals = Totals::default();
    let mut files_with = vec![0u64; words.len()];
    let mut candidates: Vec<Candidate<'a>> = Vec::new();
    for segment in index.segments.iter() {
        totals.add(segment.live);
        let from = candidates.len();
        for (at, word) in words.iter().enumerate() {
            // Both lists ascend by file: one pass joins them.
            let mut open = from;
            let mut kept = from;
            for place in places(segment.places(word)) {
                let Some(file) = segment.files.get(place.file as usize) else {
                    break;
                };
                if file.state != State::Text {
                    continue;
                }
                files_with[at] += 1;
                if at == 0 {
                    candidates.push(Candidate {
                        path: &file.path,
                        lines: file.lines,
                        places: vec![place],
                        score: 0.0,
                    });
                    continue;
                }
                while open < candidates.len() && candidates[open].places[0].file < place.file {
                    open += 1;
                }
                if open < candidates.len() && candidates[open].places[0].file == place.file {
                    candidates[open].places.push(place);
                    candidates.swap(kept, open);
                    kept += 1;
                    open += 1;
                }
            }
            if at > 0 {
                candidates.truncate(kept);
            }
        }
    }

    let average = totals.lines as f64 / (totals.files as f64).max(1.0);
    let weights: Vec<f64> = files_with
        .iter()
        .map(|&m| (1.0 + (totals.files as f64 - m as f64 + 0.5) / (m as f64 + 0.5)).ln())
        .collect();
    for candidate in &mut candidates {
        let length = 0.25 + 0.75 * f64::from(candidate.lines) / average.max(1.0);
        candidate.score = candidate
            .places
            .iter()
            .zip(&weights)
            .map(|(place, weight)| {
                let n = f64::from(place.count);
                weight * n * 2.2 / (n + 1.2 * length)
            })
            .sum();
    }

    let files = candidates.len();
    let better = |a: &Candidate<'_>, b: &Candidate<'_>| -> Ordering {
        b.score.total_cmp(&a.score).then_with(|| a.path.cmp(b.path))
    };
    if limit < files {
        if limit > 0 {
            candidates.select_nth_unstable_by(limit - 1, better);
        }
        candidates.truncate(limit);
    }
    candidates.sort_unstable_by(better);
    let hits = candidates
        .iter()
        .map(|candidate| {
            let places = &candidate.places;
            let mut lines: Vec<u32> = places.iter().flat_map(|place| place.lines()).collect();
            lines.sort_unstable();
            lines.dedup();
            Hit {
                path: candidate.path,
                lines,
            }
        })
        .collect();
    Answer { hits, files }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::{Builder, Source};
    use crate::model::Stamp;

    fn index(segments: &[&[(&str, &str)]]) -> Index {
        let mut index = Index::default();
        for files in segments {
            let mut builder = Builder::new();
            for (path, text) in *files {
                let source = Source {
                    path: path.as_bytes(),
                    stamp: Stamp::default(),
                    root: 0,
                };
                builder.add(&source, text.as_bytes()).unwrap();
            }
            index.segments.push(builder.finish());
        }
        index
    }

    fn ask(index: &Index, words: &[&str], limit: usize) -> Vec<(String, Vec<u32>)> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        search(index, &words, limit)
            .hits
            .into_iter()
            .map(|hit| (String::from_utf8(hit.path.to_vec()).unwrap(), hit.lines))
            .collect()
    }

    #[test]
    fn all_words_are_needed_and_the_lines_of_all_are_shown() {
        let index = index(&[
            &[("/a", "x\ny\nx y"), ("/b", "x"), ("/c", "y\n\nx")],
            &[("/d", "y"), ("/e", "w x\nw\ny")],
        ]);
        let mut found = ask(&index, &["x", "y"], 10);
        found.sort();
        assert_eq!(
            found,
            [
                ("/a".to_owned(), vec![1, 2, 3]),
                ("/c".to_owned(), vec![1, 3]),
                ("/e".to_owned(), vec![1, 3]),
            ]
        );
        assert_eq!(ask(&index, &["x", "nowhere"], 10), []);
        assert_eq!(
            ask(&index, &["w", "w"], 10),
            [("/e".to_owned(), vec![1, 2])]
        );
    }

    #[test]
    fn the_join_keeps_every_pair() {
        let texts: Vec<(String, String)> = (0..60)
            .map(|n| {
                let mut text = String::new();
                for (word, step) in [("two", 2), ("three", 3), ("five", 5)] {
                    if n % step == 0 {
                        text += word;
                        text += "\n";
                    }
                }
                (format!("/{n:02}"), text)
            })
            .collect();
        let files: Vec<(&str, &str)> = texts
            .iter()
            .map(|(p, t)| (p.as_str(), t.as_str()))
            .collect();
        let index = index(&[&files[..25], &files[25..]]);
        let mut found: Vec<String> = ask(&index, &["five", "two", "three"], 99)
            .into_iter()
            .map(|hit| hit.0)
            .collect();
        found.sort();
        assert_eq!(found, ["/00", "/30"]);
        assert_eq!(ask(&index, &["three", "two"], 99).len(), 10);
    }

    #[test]
    fn more_lines_of_a_shorter_file_are_better_and_the_limit_keeps_the_best() {
        let long = "x\n".to_owned() + &"other\n".repeat(50);
        let index = index(&[
            &[("/long", &long), ("/short", "x\nother\n")],
            &[("/thick", "x\nx\n"), ("/same", "x\nother\n")],
        ]);
        let order: Vec<String> = ask(&index, &["x"], 9)
            .into_iter()
            .map(|hit| hit.0)
            .collect();
        assert_eq!(order, ["/thick", "/same", "/short", "/long"]);
        let first: Vec<String> = ask(&index, &["x"], 2)
            .into_iter()
            .map(|hit| hit.0)
            .collect();
        assert_eq!(first, order[..2]);
        assert_eq!(ask(&index, &["x"], 0), []);
    }

    #[test]
    fn a_rare_word_weighs_more() {
        let index = index(&[&[
            ("/common", "rare common\ncommon\nz\nz\n"),
            ("/rare", "rare common\nrare\nz\nz\n"),
            ("/1", "common"),
            ("/2", "common"),
            ("/3", "common"),
        ]]);
        assert_eq!(ask(&index, &["rare", "common"], 9)[0].0, "/rare");
    }

    #[test]
    fn dead_files_do_not_count() {
        let mut index = index(&[&[("/a", "x"), ("/b", "x")]]);
        let segment = &mut index.segments[0];
        segment.live.take(Totals::of(&segment.files[0]));
        segment.files[0].state = State::Dead;
        assert_eq!(ask(&index, &["x"], 9), [("/b".to_owned(), vec![1])]);
    }
}
