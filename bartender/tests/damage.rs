//! Damaged files: what a real region holds is changed in many ways, and a child process opens what is left, with all of
//! it checked, reads all of it, changes it, and closes. Whatever was hit, it answers: with the data or with an error, never
//! by a signal or a panic, in bounded time and memory. `cargo xtask fuzz region` does the same under AddressSanitizer.

#![cfg(not(loom))]

#[path = "damage/image.rs"]
mod image;
#[path = "damage/world.rs"]
mod world;

use image::{Choices, Seeded};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

/// Tells the child which images: seed, first, behind the last.
const CHILD: &str = "BARTENDER_TEST_DAMAGE_CHILD";
/// How many images are tried, instead of [`IMAGES`].
const COUNT: &str = "BARTENDER_TEST_DAMAGE_IMAGES";
const IMAGES: u64 = 300;
/// How long one image may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The child's side: does nothing when run as a test.
#[test]
fn child() {
    let Ok(images) = std::env::var(CHILD) else {
        return;
    };
    let [seed, from, to] = images
        .split(' ')
        .map(|n| n.parse().expect("a number"))
        .collect::<Vec<u64>>()[..]
    else {
        panic!("three numbers")
    };
    let folder = folder();
    let originals = image::originals(folder.path());
    let path = folder.path().join("damaged.region");
    for number in from..to {
        let mut choices = Seeded(seed.wrapping_add(number << 32));
        let mut image = originals[choices.below(2).expect("without an end")].clone();
        println!("image: {}", image.damage(&mut choices));
        image.write(&path);
        match world::use_it(&path) {
            Ok(_) => println!("answered"),
            Err(error) => println!("refused: {}", error.to_string().replace('\n', " ")),
        }
    }
}

fn folder() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    let within = match shared.exists() {
        true => PathBuf::from(shared),
        false => std::env::temp_dir(),
    };
    tempfile::tempdir_in(within).expect("a folder")
}

/// Runs a child over the images `from..to`. Returns how many it answered and refused, and, if it ended before the last,
/// what it was about.
fn run(seed: u64, from: u64, to: u64) -> (u64, u64, Option<String>) {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, format!("{seed} {from} {to}"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let said = child.stdout.take().expect("piped");
    let (lines, said) = {
        let (sender, lines) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        (lines, reader)
    };
    let (mut answered, mut refused, mut about) = (0, 0, String::new());
    loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) if line.ends_with("answered") => answered += 1,
            Ok(line) if line.contains("refused: ") => refused += 1,
            Ok(line) => {
                if let Some((_, what)) = line.split_once("image: ") {
                    about = what.to_owned();
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                about.push_str(" (no answer in time)");
                child.kill().expect("killed");
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    said.join().expect("read to the end");
    let status = child.wait().expect("waited");
    let failed = (!status.success()).then(|| format!("{status}: {about}"));
    (answered, refused, failed)
}

/// Held by a test that has regions open in this process: one that takes a quarter of the addresses may not be in the way of
/// another.
static ADDRESSES: Mutex<()> = Mutex::new(());

/// It was, where the first page was lost: all data with it.
#[test]
fn a_heap_that_has_lost_its_header_is_not_made_anew() {
    let _alone = ADDRESSES.lock();
    let folder = folder();
    let path = folder.path().join("headless.region");
    for mut image in image::originals(folder.path()) {
        image.lose_heap_header();
        image.write(&path);
        // The first opening may find a log, and bring it home.
        let mut homes = Vec::new();
        for _ in 0..2 {
            let error = world::options().open(&path).expect_err("there are data");
            assert!(error.to_string().contains("zeroes"), "{error}");
            homes.push(image.home_bytes(&path));
        }
        assert!(homes[0] == homes[1], "the home was changed");
    }
}

/// It ended the process, where the allocator's descriptors did not fit the memory: image 1973 of the seed 2654435769.
#[test]
fn a_region_that_says_that_it_is_huge_is_answered() {
    let _alone = ADDRESSES.lock();
    let folder = folder();
    let path = folder.path().join("huge.region");
    for mut image in image::originals(folder.path()) {
        image.claim(1 << 43);
        image.write(&path);
        let options = world::options().create(false).verify(true);
        // With much memory, and much address space from its home address on, it opens.
        if let Ok(heap) = options.open_with(&path, || unreachable!("there is one")) {
            heap.close().expect("whole");
        }
    }
}

#[test]
fn damaged_files_are_answered() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let count = number(COUNT).unwrap_or(IMAGES);
    let seed = number("BARTENDER_TEST_DAMAGE_SEED").unwrap_or(0x9e37_79b9);
    let (mut next, mut answered, mut refused) = (0, 0, 0);
    let mut bad = Vec::new();
    while next < count {
        let (good, bad_data, failed) = run(seed, next, count);
        answered += good;
        refused += bad_data;
        next += good + bad_data;
        if let Some(failed) = failed {
            bad.push(format!("image {next}: {failed}"));
            next += 1;
        }
    }
    println!("seed {seed}: {answered} answered, {refused} refused");
    assert!(bad.is_empty(), "without an answer (seed {seed}): {bad:#?}");
    assert!(answered > count / 10 && refused > count / 10);
}
