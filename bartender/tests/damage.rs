//! Damaged files: bytes of a real region are overwritten, and a child process opens what is left, walks all of it,
//! changes it and closes. Whatever was hit, the child answers: with the data or with an error, never by a signal or a
//! panic, in bounded time and memory.

#![cfg(not(loom))]

use bartender::{Error, Heap, Mut, PBox, PHashMap, PMutex, PRwLock, PString, PVec, Persist};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Names the region to the child.
const REGION: &str = "BARTENDER_TEST_DAMAGE_REGION";
/// How many images are tried, instead of [`IMAGES`].
const COUNT: &str = "BARTENDER_TEST_DAMAGE_IMAGES";
const IMAGES: u64 = 60;
/// How long the child may take.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Persist)]
#[repr(u8)]
enum Shape {
    Nothing,
    Line(f64),
    Text { text: PString, letter: char },
}

#[derive(Persist, Default)]
#[repr(C)]
struct Node {
    value: Option<u32>,
    flag: bool,
    next: Option<PBox<Node>>,
}

#[derive(Persist, Default)]
#[repr(C)]
struct World {
    names: PHashMap<PString, PVec<u64>>,
    shapes: PVec<Shape>,
    list: Option<PBox<Node>>,
    locks: PVec<PMutex<Option<PBox<u64>>>>,
    pairs: PVec<(u8, u64)>,
    bulk: PVec<u8>,
}

fn open(path: &Path) -> Result<Heap<PRwLock<World>>, Error> {
    Heap::options()
        .max_size(16 << 20)
        .log_size(256 << 10)
        .create(false)
        // A region that was closed cleanly is opened without a look at its data.
        .verify(true)
        .open(path)
}

fn fill(heap: &Heap<PRwLock<World>>, from: u64, to: u64) -> Result<(), Error> {
    for i in from..to {
        heap.update(|world| {
            let mut world = world.into_project();
            world.names.insert(
                PString::from(format!("name {i}").as_str()),
                (0..i).collect(),
            )?;
            world.shapes.push(match i % 3 {
                0 => Shape::Nothing,
                1 => Shape::Line(i as f64),
                _ => Shape::Text {
                    text: "some text".into(),
                    letter: 'x',
                },
            })?;
            let next = Mut::take(&mut world.list)?;
            world.list.set(Some(PBox::new(Node {
                value: (i % 2 == 0).then_some(7),
                flag: true,
                next,
            })))?;
            world.locks.push(PMutex::new(Some(PBox::new(i))))?;
            world.pairs.push((1, i))
        })?;
    }
    Ok(())
}

/// Reads everything.
fn walk(world: &World) -> u64 {
    let mut sum = 0;
    for (name, list) in world.names.iter() {
        sum = list.iter().fold(sum, |a: u64, b| a.wrapping_add(*b));
        sum = sum.wrapping_add(name.chars().count() as u64);
        sum = sum.wrapping_add(u64::from(world.names.contains_key(name.as_str())));
    }
    for shape in world.shapes.iter() {
        sum = sum.wrapping_add(match shape {
            Shape::Nothing => 0,
            Shape::Line(length) => length.to_bits(),
            Shape::Text { text, letter } => text.len() as u64 + u64::from(u32::from(*letter)),
        });
    }
    let mut next = world.list.as_ref();
    while let Some(node) = next {
        sum = sum.wrapping_add(u64::from(node.value.unwrap_or(1)) + u64::from(node.flag));
        next = node.next.as_ref();
    }
    for lock in world.locks.iter() {
        sum = sum.wrapping_add(lock.read().as_ref().map_or(0, |inside| **inside));
    }
    for (a, b) in world.pairs.iter() {
        sum = sum.wrapping_add(u64::from(*a) ^ *b);
    }
    world
        .bulk
        .iter()
        .fold(sum, |sum, byte| sum.wrapping_add(u64::from(*byte)))
}

fn use_it(path: &Path) -> Result<u64, Error> {
    let heap = open(path)?;
    let sum = walk(&heap.read());
    fill(&heap, 1000, 1004)?;
    heap.update(|world| {
        let mut world = world.into_project();
        world.shapes.truncate(1)?;
        world.names.retain(|_, list| list.len() % 2 == 0)?;
        world.list.set(None)
    })?;
    heap.check()?;
    let sum = sum.wrapping_add(walk(&heap.read()));
    heap.close()?;
    open(path)?.close()?;
    Ok(sum)
}

/// The child's side: does nothing when run as a test.
#[test]
fn child() {
    let Some(path) = std::env::var_os(REGION) else {
        return;
    };
    match use_it(Path::new(&path)) {
        Ok(sum) => println!("answer: {sum}"),
        Err(error) => println!("answer: {error}"),
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Pages of a file that are not all zeroes.
fn pages(bytes: &[u8]) -> Vec<usize> {
    let used = |page: &[u8]| page.iter().any(|byte| *byte != 0);
    let pages = bytes.chunks(4096).enumerate();
    pages
        .filter(|(_, page)| used(page))
        .map(|(i, _)| i)
        .collect()
}

fn damage(bytes: &mut [u8], used: &[usize], random: &mut Random) -> String {
    let mut what = Vec::new();
    for _ in 0..1 + random.below(3) {
        let page = match random.below(4) {
            0 => used[random.below(used.len().min(6) as u64) as usize],
            _ => used[random.below(used.len() as u64) as usize],
        };
        let mut at = page * 4096 + random.below(512) as usize * 8;
        // Where something is.
        for _ in 0..512 {
            if bytes[at..at + 8].iter().any(|byte| *byte != 0) {
                break;
            }
            at = page * 4096 + (at + 8) % 4096;
        }
        let word = u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let new = match random.below(8) {
            0 => word ^ 1 << random.below(64),
            1 => 0,
            2 => u64::MAX,
            3 => random.next(),
            4 => word.wrapping_add(8),
            5 => word.wrapping_sub(1),
            6 => word ^ (0xff << (8 * random.below(8))),
            _ => word | 1 << (32 + random.below(31)),
        };
        bytes[at..at + 8].copy_from_slice(&new.to_le_bytes());
        what.push(format!("{at:#x}: {word:#x} -> {new:#x}"));
    }
    if random.below(20) == 0 {
        what.push("cut".to_owned());
    }
    what.join(", ")
}

#[test]
fn damaged_files_are_answered() {
    let folder = tempfile::tempdir_in(if Path::new("/dev/shm").exists() {
        PathBuf::from("/dev/shm")
    } else {
        std::env::temp_dir()
    })
    .expect("a folder");
    let path = folder.path().join("damaged.region");
    let options = || {
        Heap::<PRwLock<World>>::options()
            .max_size(16 << 20)
            .log_size(256 << 10)
    };
    let heap = options().open(&path).expect("created");
    fill(&heap, 0, 60).expect("filled");
    heap.update(|world| world.into_project().bulk.extend_from_slice(&[7; 100_000]))
        .expect("filled");
    heap.close().expect("closed");
    let clean = std::fs::read(&path).expect("read");
    // As a crash leaves it: with a log.
    let heap = options().background(false).open(&path).expect("opened");
    fill(&heap, 60, 90).expect("filled");
    heap.update(|world| world.into_project().bulk.extend_from_slice(&[9; 200_000]))
        .expect("filled");
    let crashed = std::fs::read(&path).expect("read");
    drop(heap);

    let count = std::env::var(COUNT).ok().and_then(|n| n.parse().ok());
    let seed = std::env::var("BARTENDER_TEST_DAMAGE_SEED")
        .ok()
        .and_then(|n| n.parse().ok());
    let mut random = Random(seed.unwrap_or(0x9e37_79b9_7f4a_7c15));
    let images = [(pages(&clean), clean), (pages(&crashed), crashed)];
    let (mut answered, mut refused) = (0, 0);
    let mut bad = Vec::new();
    for image in 0..count.unwrap_or(IMAGES) {
        let (used, bytes) = &images[random.below(2) as usize];
        let mut bytes = bytes.clone();
        let what = damage(&mut bytes, used, &mut random);
        if what.ends_with("cut") {
            bytes.truncate(random.below(bytes.len() as u64) as usize);
        }
        std::fs::remove_file(&path).expect("removed");
        let file = std::fs::File::create_new(&path).expect("created");
        file.set_len(bytes.len() as u64).expect("room");
        for page in used
            .iter()
            .filter(|page| (**page + 1) * 4096 <= bytes.len())
        {
            let at = page * 4096;
            file.write_all_at(&bytes[at..at + 4096], at as u64)
                .expect("written");
        }
        drop(file);
        let start = Instant::now();
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "child", "--nocapture"])
            .env(REGION, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a child");
        while child.try_wait().expect("waited").is_none() {
            if start.elapsed() > PATIENCE {
                child.kill().expect("killed");
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let output = child.wait_with_output().expect("waited");
        let said = String::from_utf8_lossy(&output.stdout);
        let answer = said.lines().find_map(|line| line.split_once("answer: "));
        match answer {
            Some((_, answer)) if output.status.success() => {
                if answer.parse::<u64>().is_ok() {
                    answered += 1;
                } else {
                    refused += 1;
                }
            }
            _ => {
                let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
                let signal = output.status.signal();
                eprintln!("image {image} ({what}): signal {signal:?}: {said} {stderr}");
                if let Ok(keep) = std::env::var("BARTENDER_TEST_DAMAGE_KEEP") {
                    std::fs::copy(&path, format!("{keep}/{image}.region")).ok();
                }
                bad.push(image);
            }
        }
    }
    println!("{answered} answered, {refused} refused");
    assert!(bad.is_empty(), "images without an answer: {bad:?}");
}
