//! The example program `codesearch`, driven as a person would: what it answers
//! is compared with a search that looks at every file, and it is killed,
//! misled and interrupted.
//!
//! Its modules are compiled here once more, for the sake of their unit tests:
//! Cargo would build an example either with them or as a program.

use bartender::{Heap, PMutex};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[allow(dead_code)]
#[path = "../examples/codesearch/builder.rs"]
mod builder;
#[allow(dead_code)]
#[path = "../examples/codesearch/compact.rs"]
mod compact;
#[allow(dead_code)]
#[path = "../examples/codesearch/error.rs"]
mod error;
#[allow(dead_code)]
#[path = "../examples/codesearch/indexer.rs"]
mod indexer;
#[allow(dead_code)]
#[path = "../examples/codesearch/model.rs"]
mod model;
#[allow(dead_code)]
#[path = "../examples/codesearch/output.rs"]
mod output;
#[allow(dead_code)]
#[path = "../examples/codesearch/postings.rs"]
mod postings;
#[allow(dead_code)]
#[path = "../examples/codesearch/query.rs"]
mod query;
#[allow(dead_code)]
#[path = "../examples/codesearch/stats.rs"]
mod stats;
#[allow(dead_code)]
#[path = "../examples/codesearch/store.rs"]
mod store;
#[allow(dead_code)]
#[path = "../examples/codesearch/tokens.rs"]
mod tokens;
#[allow(dead_code)]
#[path = "../examples/codesearch/walk.rs"]
mod walk;

/// The example. `cargo test` builds it before it runs a test; when it was told
/// to build this test only, we do.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let mut folder = std::env::current_exe().unwrap();
        folder.pop();
        if folder.ends_with("deps") {
            folder.pop();
        }
        let path = folder.join("examples/codesearch");
        if !path.is_file() {
            let built = Command::new(env!("CARGO"))
                .args(["build", "--profile", "test", "--example", "codesearch"])
                .arg("--target-dir")
                .arg(folder.parent().unwrap())
                .status();
            assert!(built.is_ok_and(|status| status.success()) && path.is_file());
        }
        path
    })
}

/// A folder for regions and trees: in memory where that is possible.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

fn run(region: &Path, arguments: &[&str]) -> Output {
    Command::new(program())
        .args(arguments)
        .arg("--region")
        .arg(region)
        .output()
        .unwrap()
}

/// What a run prints; it must end well and say nothing else.
fn good(region: &Path, arguments: &[&str]) -> String {
    let output = run(region, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    assert_eq!(errors, "", "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The one line a failing run says.
fn bad(region: &Path, arguments: &[&str]) -> String {
    one_line(&run(region, arguments))
}

fn one_line(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.starts_with("codesearch: "), "{errors}");
    errors
}

fn index(region: &Path, tree: &Path) -> String {
    let tree = tree.to_str().unwrap();
    good(region, &["index", "--batch", "20000", tree])
}

fn stats(region: &Path) -> serde_json::Value {
    serde_json::from_str(&good(region, &["stats", "--json"])).unwrap()
}

/// Path → lines.
type Found = BTreeMap<Vec<u8>, BTreeSet<usize>>;

/// What the program finds. Paths that are not UTF-8 come in quotes.
fn search(region: &Path, words: &[&str]) -> Found {
    let mut arguments = vec!["search", "--json", "--limit", "1000000"];
    arguments.extend(words);
    let mut found = Found::new();
    for line in good(region, &arguments).lines() {
        let hit: serde_json::Value = serde_json::from_str(line).unwrap();
        let path = hit["path"].as_str().unwrap().replace("\\xff", "\u{1}");
        let mut path = path.into_bytes();
        if path.starts_with(b"$'") {
            path = path[2..path.len() - 1].to_vec();
            path.iter_mut().filter(|b| **b == 1).for_each(|b| *b = 0xff);
        }
        let lines = hit["lines"].as_array().unwrap().iter();
        let lines: Vec<usize> = lines.map(|n| n.as_u64().unwrap() as usize).collect();
        assert!(lines.is_sorted_by(|a, b| a < b), "{line}");
        let before = found.insert(path, lines.into_iter().collect());
        assert!(before.is_none(), "a file twice: {line}");
    }
    found
}

/// What `grep -rnw` finds in these files, in the C locale: the naive twin.
fn grep(files: &[PathBuf], words: &[&str]) -> Found {
    let part = |b: u8| b == b'_' || b.is_ascii_alphanumeric();
    let holds = |line: &[u8], word: &[u8]| {
        line.windows(word.len()).enumerate().any(|(at, window)| {
            window == word
                && (at == 0 || !part(line[at - 1]))
                && line.get(at + word.len()).is_none_or(|&b| !part(b))
        })
    };
    let mut found = Found::new();
    for path in files {
        let text = fs::read(path).unwrap();
        if text.contains(&0) {
            continue;
        }
        let mut lines = BTreeSet::new();
        let all = words.iter().all(|word| {
            let numbered = text.split(|&b| b == b'\n').enumerate();
            let with = numbered.filter(|(_, line)| holds(line, word.as_bytes()));
            let numbers: Vec<usize> = with.map(|(at, _)| at + 1).collect();
            lines.extend(&numbers);
            !numbers.is_empty()
        });
        if all {
            found.insert(path.as_os_str().as_bytes().to_vec(), lines);
        }
    }
    found
}

/// Numbers from a seed that is printed.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let seed = match std::env::var("BARTENDER_SEED") {
            Ok(seed) => seed.parse().expect("BARTENDER_SEED is a number"),
            Err(_) => now.as_nanos() as u64 | 1,
        };
        println!("to repeat it: BARTENDER_SEED={seed}");
        Random(seed)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }
}

fn word(n: usize) -> String {
    match n % 4 {
        0 => format!("alpha{n}"),
        1 => format!("_b{n}"),
        2 => format!("Gamma_{n}_"),
        _ => format!("d{n}"),
    }
}

/// Source text: words, numbers, runs that are no words, odd bytes.
fn text(random: &mut Random, lines: usize) -> Vec<u8> {
    let between: &[&[u8]] = &[b" ", b"-", b"\xff", b".", b"(", b"\xc3\xa9", b"7 8", b"\t"];
    let mut text = Vec::new();
    for _ in 0..lines {
        for _ in 0..random.below(9) {
            let n = random.below(400);
            text.extend_from_slice(word(random.below(n + 1)).as_bytes());
            text.extend_from_slice(between[random.below(between.len())]);
        }
        text.push(b'\n');
    }
    if random.below(2) == 0 {
        text.pop();
    }
    text
}

/// A tree of about `count` files; returns those that are to be found in it.
fn tree(random: &mut Random, root: &Path, count: usize) -> Vec<PathBuf> {
    fs::create_dir_all(root).unwrap();
    fs::write(root.join(".gitignore"), "made-*\n").unwrap();
    let mut files = vec![root.join(".gitignore")];
    for n in 0..count {
        let mut folder = root.to_owned();
        for _ in 0..random.below(4) {
            folder.push(["src", ".hidden", "a b", "deep"][random.below(4)]);
        }
        fs::create_dir_all(&folder).unwrap();
        let name = format!("f{n:04}.rs");
        let name = match random.below(12) {
            0 => [name.as_bytes(), b"\xff"].concat(),
            1 => [b"line\nbreak", name.as_bytes()].concat(),
            2 => [b"made-", name.as_bytes()].concat(),
            _ => name.into_bytes(),
        };
        let path = folder.join(OsStr::from_bytes(&name));
        let lines = random.below(60);
        let mut text = text(random, lines);
        if random.below(15) == 0 {
            text.push(0);
        }
        fs::write(&path, text).unwrap();
        if !name.starts_with(b"made-") {
            files.push(path);
        }
    }
    files
}

/// Compares the index with the tree: single words, and two words together.
fn compare(random: &mut Random, region: &Path, files: &[PathBuf]) {
    for n in 0..24 {
        let first = word(if n < 12 { n } else { random.below(400) });
        let second = word(random.below(30));
        for words in [&[&*first][..], &[&*first, &*second]] {
            let (ours, grep) = (search(region, words), grep(files, words));
            assert_eq!(ours, grep, "{words:?}");
        }
    }
}

#[test]
fn answers_are_those_of_grep() {
    let mut random = Random::new();
    let home = scratch();
    let home = home.path().canonicalize().unwrap();
    let region = home.join("index.region");
    let files = tree(&mut random, &home.join("tree"), 300);
    index(&region, &home.join("tree"));
    compare(&mut random, &region, &files);
}

#[test]
fn changed_files_are_indexed_again_and_deleted_ones_dropped() {
    let mut random = Random::new();
    let home = scratch();
    let home = home.path().canonicalize().unwrap();
    let region = home.join("index.region");
    let root = home.join("tree");
    let mut files = tree(&mut random, &root, 120);
    index(&region, &root);
    for _ in 0..6 {
        for _ in 0..15 {
            let at = 1 + random.below(files.len() - 1);
            match random.below(3) {
                0 => fs::remove_file(files.swap_remove(at)).unwrap(),
                1 => {
                    let lines = random.below(60);
                    fs::write(&files[at], text(&mut random, lines)).unwrap();
                }
                _ => {
                    let to = files[at].with_extension(format!("m{}", random.below(1 << 30)));
                    fs::rename(&files[at], &to).unwrap();
                    files[at] = to;
                }
            }
        }
        index(&region, &root);
        compare(&mut random, &region, &files);
    }
}

#[test]
fn a_second_run_reads_nothing() {
    let mut random = Random::new();
    let home = scratch();
    let region = home.path().join("index.region");
    let root = home.path().join("tree");
    let files = tree(&mut random, &root, 50);
    // Time stamps of the last few milliseconds are not trusted.
    std::thread::sleep(Duration::from_millis(50));
    index(&region, &root);
    let second = index(&region, &root);
    assert!(second.starts_with("indexed 0 files"), "{second}");
    let unchanged = format!("unchanged {},", files.len());
    assert!(second.contains(&unchanged), "{second}");
}

#[test]
fn killed_at_any_moment_it_goes_on_and_counts_nothing_twice() {
    let mut random = Random::new();
    let home = scratch();
    let home = home.path().canonicalize().unwrap();
    let root = home.join("tree");
    let files = tree(&mut random, &root, 600);
    let clean = home.join("clean.region");
    index(&clean, &root);
    let expected = stats(&clean);

    let (mut killed, mut between) = (0, BTreeSet::new());
    for round in 0..12 {
        let region = home.join(format!("killed-{round}.region"));
        let mut seen = false;
        loop {
            let mut child = Command::new(program())
                .args(["index", "--batch", "5000", "--region"])
                .args([&region, &root])
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            // Ever later, so that every round ends.
            let most = 20_000 + 2_000 * killed;
            std::thread::sleep(Duration::from_micros(random.below(most) as u64));
            let done = child.try_wait().unwrap();
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            if let Some(status) = done {
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(status.success(), "{errors}");
                break;
            }
            killed += 1;
            // Killed before the region was created, there is nothing to look at.
            let now = run(&region, &["stats", "--json"]);
            if now.status.success() {
                let now: serde_json::Value = serde_json::from_slice(&now.stdout).unwrap();
                let count = now["files"].as_u64().unwrap();
                assert!(count <= expected["files"].as_u64().unwrap());
                between.insert(count);
                seen = true;
            } else {
                let line = one_line(&now);
                assert!(!seen && line.contains("no index there"), "{line}");
            }
        }
        index(&region, &root);
        let now = stats(&region);
        for key in ["files", "binary", "words", "postings", "lines", "bytes"] {
            assert_eq!(now[key], expected[key], "{key} after {killed} deaths");
        }
        for n in [0, 1, 2, 3, 17, 60] {
            let word = word(n);
            let all = ["search", "--limit", "1000000", word.as_str()];
            assert_eq!(good(&region, &all), good(&clean, &all), "{word}");
        }
        fs::remove_file(&region).unwrap();
    }
    println!(
        "{killed} processes killed, {} different states met in between",
        between.len()
    );
    assert!(killed > 0);
    compare(&mut random, &clean, &files);
}

#[test]
fn two_folders_live_in_one_region() {
    let mut random = Random::new();
    let home = scratch();
    let home = home.path().canonicalize().unwrap();
    let region = home.join("index.region");
    let (one, two) = (home.join("one"), home.join("two"));
    let mut files = tree(&mut random, &one, 40);
    files.extend(tree(&mut random, &two, 40));
    index(&region, &one);
    index(&region, &two);
    compare(&mut random, &region, &files);

    // A run drops what is gone below its own folder, not below the other.
    let gone = files
        .iter()
        .position(|path| path.starts_with(&one) && path.extension().is_some_and(|end| end == "rs"));
    fs::remove_file(files.swap_remove(gone.unwrap())).unwrap();
    let before = stats(&region);
    index(&region, &two);
    let after = stats(&region);
    assert_eq!(
        (&after["files"], &after["binary"]),
        (&before["files"], &before["binary"])
    );
    index(&region, &one);
    compare(&mut random, &region, &files);
}

#[test]
fn the_limit_cuts_files_best_first() {
    let home = scratch();
    let home = home.path().canonicalize().unwrap();
    let region = home.join("index.region");
    let root = home.join("tree");
    fs::create_dir(&root).unwrap();
    for n in 1..=30 {
        let text = "word here\n".repeat(n) + &"filler\n".repeat(30 - n);
        fs::write(root.join(format!("f{n:02}")), text).unwrap();
    }
    index(&region, &root);
    let all = good(&region, &["search", "word", "--limit", "1000"]);
    assert_eq!(all.lines().count(), (1..=30).sum::<usize>());
    let two = good(&region, &["search", "--limit", "2", "word"]);
    let best: Vec<String> = [30, 29]
        .into_iter()
        .flat_map(|n| (1..=n).map(move |line| (n, line)))
        .map(|(n, line)| format!("{}/f{n}:{line}", root.display()))
        .collect();
    assert_eq!(two.lines().collect::<Vec<_>>(), best);
    assert!(all.starts_with(&two));
    let json = ["search", "--limit", "1", "--json", "word", "here"];
    let hit: serde_json::Value = serde_json::from_str(&good(&region, &json)).unwrap();
    assert_eq!(hit["path"], format!("{}/f30", root.display()));
    assert_eq!(hit["lines"].as_array().unwrap().len(), 30);
    assert_eq!(good(&region, &["search", "nowhere"]), "");
}

#[test]
fn the_region_is_named_before_or_after_the_subcommand_or_found_at_home() {
    let home = scratch();
    let root = home.path().join("tree");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("f"), "word").unwrap();
    let region = home.path().join("index.region");
    let output = Command::new(program())
        .arg("--region")
        .arg(&region)
        .arg("index")
        .arg(&root)
        .output()
        .unwrap();
    assert!(output.status.success());
    assert_eq!(good(&region, &["search", "word"]).lines().count(), 1);

    for (variable, place) in [
        ("XDG_DATA_HOME", "bartender/codesearch.region"),
        ("HOME", ".local/share/bartender/codesearch.region"),
    ] {
        let user = home.path().join(variable);
        let mut command = Command::new(program());
        command.env_remove("XDG_DATA_HOME").env(variable, &user);
        let output = command.arg("index").arg(&root).output().unwrap();
        assert!(output.status.success());
        assert!(user.join(place).is_file());
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let home = scratch();
    let region = home.path().join("index.region");
    let root = home.path().join("tree");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("f"), "word\n".repeat(100_000)).unwrap();
    index(&region, &root);
    let mut child = Command::new(program())
        .args(["search", "word", "--region"])
        .arg(&region)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    drop(out);
    assert!(line.trim_end().ends_with("f:1"), "{line}");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(stats(&region)["recovery"]["ran"], false);
}

#[test]
fn bad_input_gets_one_line_and_harms_nothing() {
    let home = scratch();
    let root = home.path().join("tree");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("f"), "word").unwrap();
    let tree = root.to_str().unwrap();
    let region = home.path().join("index.region");

    let missing = home.path().join("missing");
    let line = bad(&region, &["index", missing.to_str().unwrap()]);
    assert!(line.contains("missing"), "{line}");
    let line = bad(&region, &["index", root.join("f").to_str().unwrap()]);
    assert!(line.contains("not a folder"), "{line}");
    for arguments in [&["search", "word"][..], &["stats"]] {
        let line = bad(&region, arguments);
        assert!(line.contains("no index there"), "{line}");
    }
    assert!(!region.exists());

    let text = home.path().join("text.region");
    let letter = "this is a letter\n".repeat(10_000);
    fs::write(&text, &letter).unwrap();
    for arguments in [&["index", tree][..], &["search", "word"], &["stats"]] {
        let line = bad(&text, arguments);
        assert!(line.contains("not a bartender region"), "{line}");
    }
    assert_eq!(fs::read_to_string(&text).unwrap(), letter);

    index(&region, &root);
    for word in ["", "two words", "1st", "a-b"] {
        let line = bad(&region, &["search", word]);
        assert!(line.contains("not a word"), "{line}");
    }
    assert_eq!(good(&region, &["search", "word"]).lines().count(), 1);
}

#[test]
fn a_region_of_another_program_or_in_use_is_left_alone() {
    let home = scratch();
    let root = home.path().join("tree");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("f"), "word").unwrap();
    let tree = root.to_str().unwrap();
    let region = home.path().join("counter.region");

    let open = || Heap::<PMutex<u64>>::options().open(&region).unwrap();
    let heap = open();
    heap.update(|mut n| n.set(7)).unwrap();
    let all = [&["index", tree][..], &["search", "word"], &["stats"]];
    for arguments in all {
        let line = bad(&region, arguments);
        assert!(line.contains("open in"), "{line}");
    }
    heap.close().unwrap();
    for arguments in all {
        let line = bad(&region, arguments);
        assert!(line.contains("another type"), "{line}");
    }
    assert_eq!(*open().read(), 7);
}

#[test]
fn a_full_disk_is_an_error_and_what_was_indexed_stays() {
    let home = scratch();
    let region = home.path().join("index.region");
    let root = home.path().join("tree");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("small"), "first word").unwrap();
    index(&region, &root);

    // The file may not grow by more than 4 MB: sh counts 512 bytes. Without
    // the trap the system would kill the program instead of telling it.
    let mut large = String::new();
    for n in 0..300_000 {
        large += &format!("w{n:x}\n");
    }
    fs::write(root.join("large"), &large).unwrap();
    let limit = (fs::metadata(&region).unwrap().len() + (4 << 20)) / 512;
    let script = "trap '' XFSZ; ulimit -f $1; shift; exec \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script, "sh", &limit.to_string()])
        .arg(program())
        .arg("index")
        .arg(&root)
        .arg("--region")
        .arg(&region)
        .output()
        .unwrap();
    let line = one_line(&output);
    assert!(line.contains("index.region"), "{line}");
    assert_eq!(search(&region, &["first"]).len(), 1);
    assert_eq!(search(&region, &["w7f"]).len(), 0);
    assert_eq!(stats(&region)["files"], 1);

    // With room it goes on, and the file's many words come in pieces.
    index(&region, &root);
    assert_eq!(search(&region, &["first"]).len(), 1);
    assert_eq!(search(&region, &["w7f"]).len(), 1);
    assert_eq!(stats(&region)["files"], 2);
    assert_eq!(stats(&region)["words"], 300_002);
}

#[test]
fn what_cannot_be_read_is_skipped_with_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let home = scratch();
    let region = home.path().join("index.region");
    let root = home.path().join("tree");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("open"), "word").unwrap();
    let closed = root.join("closed");
    fs::write(&closed, "word").unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&closed).is_ok() {
        println!("skipped: this user may read everything");
        return;
    }
    let output = run(&region, &["index", root.to_str().unwrap()]);
    assert!(output.status.success());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.contains("warning") && errors.contains("closed"));
    assert!(String::from_utf8_lossy(&output.stdout).contains("unreadable 1"));
    assert_eq!(search(&region, &["word"]).len(), 1);
}
