//! Real deaths: a child process moves money between accounts on several threads and is killed by SIGKILL at random
//! instants. The region is opened again after each death, by the next child or by the parent, who checks that every
//! acknowledged transfer is there, none is torn, and nothing is leaked. It is one region all along, so that damage
//! would accumulate.
//!
//! What transfer `n` of thread `t` does follows from `t` and `n`, and it sets the thread's own counter in the same
//! transaction: from the counters follow all balances.

#![cfg(not(loom))]

use bartender::{Error, Heap, PHashMap, PMutex, PRwLock, PString, PVec, Persist};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

#[path = "../../bartender-pm/tests/places/mod.rs"]
mod places;
use places::Place;

const ACCOUNTS: usize = 12;
const THREADS: usize = 3;
const HISTORY: usize = 6;
const KILLS: u64 = 100;
/// Names the region to the child.
const REGION: &str = "BARTENDER_TEST_KILL_REGION";
/// What a child that is dead had told.
const ACKED: &str = "BARTENDER_TEST_KILL_ACKED";

#[derive(Persist)]
#[repr(C)]
struct Entry {
    thread: u64,
    n: u64,
    text: PString,
}

#[derive(Persist, Default)]
#[repr(C)]
struct Account {
    cents: i64,
    history: PVec<Entry>,
    /// The last text of each partner.
    partners: PHashMap<u64, PString>,
}

#[derive(Persist)]
#[repr(C)]
struct Bank {
    accounts: PVec<PMutex<Account>>,
    /// Transfers that each thread has made.
    made: [PRwLock<u64>; THREADS],
}

fn bank() -> Bank {
    Bank {
        accounts: (0..ACCOUNTS).map(|_| PMutex::default()).collect(),
        made: Default::default(),
    }
}

fn open(path: &Path) -> Result<Heap<Bank>, Error> {
    Heap::options()
        .max_size(64 << 20)
        // Small, so that checkpoints run all the time.
        .log_size(256 << 10)
        .open_with(path, bank)
}

fn mix(n: u64) -> u64 {
    let z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// From, to, cents.
fn transfer_of(t: u64, n: u64) -> (usize, usize, i64) {
    let r = mix(n * THREADS as u64 + t);
    let from = r as usize % ACCOUNTS;
    let to = (from + 1 + (r >> 16) as usize % (ACCOUNTS - 1)) % ACCOUNTS;
    (from, to, (r >> 32) as i64 % 1000)
}

fn text_of(t: u64, n: u64) -> String {
    format!("{t}/{n} {}", "x".repeat((mix(n + t) % 90) as usize))
}

fn transfer(heap: &Heap<Bank>, t: u64, n: u64) -> Result<(), Error> {
    let (from, to, cents) = transfer_of(t, n);
    heap.transaction(|tx| {
        let bank = heap.root();
        *tx.lock(&bank.made[t as usize])? = n;
        for (account, partner, cents) in [(from, to, -cents), (to, from, cents)] {
            let mut account = tx.lock(&bank.accounts[account])?.into_project();
            *account.cents += cents;
            account.history.push(Entry {
                thread: t,
                n,
                text: text_of(t, n).as_str().into(),
            })?;
            if account.history.len() > HISTORY {
                account.history.remove(0)?;
            }
            let text = PString::from(text_of(t, n).as_str());
            account.partners.insert(partner as u64, text)?;
            if n.is_multiple_of(5) {
                account.partners.remove(&(n % ACCOUNTS as u64))?;
            }
        }
        Ok(())
    })
}

/// Says that transfer `n` of thread `t` was acknowledged or seen.
fn tell(out: &Mutex<std::io::Stdout>, t: usize, n: u64) {
    let line = format!("ack {t} {n}\n");
    let mut out = out.lock().expect("nobody panics with it");
    out.write_all(line.as_bytes()).expect("the parent listens");
    out.flush().expect("the parent listens");
}

/// The child's work. In an ordinary run of the tests there is no region, and it does nothing.
#[test]
fn work_until_killed() {
    let (Some(path), None) = (std::env::var_os(REGION), std::env::var_os(ACKED)) else {
        return;
    };
    let heap = open(Path::new(&path));
    let heap = heap.unwrap_or_else(|error| {
        println!("\nfailed to open: {error}");
        std::process::exit(1);
    });
    let out = Mutex::new(std::io::stdout());
    writeln!(out.lock().expect("new"), "\nopened").expect("the parent listens");
    let heap = &heap;
    std::thread::scope(|scope| {
        for t in 0..THREADS {
            let out = &out;
            scope.spawn(move || {
                let mut n = *heap.root().made[t].read();
                loop {
                    n += 1;
                    transfer(heap, t as u64, n).expect("commits");
                    tell(out, t, n);
                }
            });
        }
        // What was read must survive, too.
        scope.spawn(|| {
            loop {
                for (t, made) in heap.root().made.iter().enumerate() {
                    let n = *made.read();
                    tell(&out, t, n);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
    });
}

/// A child that does not outlive the test.
struct Victim(Child);

impl Victim {
    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(path: &Path) -> (Victim, Receiver<String>) {
    let exe = std::env::current_exe().expect("this program");
    let mut child = Command::new(exe)
        .args(["--exact", "work_until_killed", "--nocapture"])
        .env(REGION, path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let out = BufReader::new(child.stdout.take().expect("piped"));
    let (send, lines) = channel();
    // Until the pipe is closed by the child's death. A last line without an end was not said.
    std::thread::spawn(move || {
        let mut out = out;
        let mut line = String::new();
        while out.read_line(&mut line).is_ok_and(|n| n > 0) && line.ends_with('\n') {
            if send.send(std::mem::take(&mut line)).is_err() {
                return;
            }
        }
    });
    (Victim(child), lines)
}

/// What the parent knows.
#[derive(Default)]
struct Model {
    /// Highest number that was told, of each thread.
    acked: [u64; THREADS],
    /// Numbers up to which `balances` counts.
    counted: [u64; THREADS],
    balances: [i64; ACCOUNTS],
}

impl Model {
    fn hear(&mut self, line: &str) {
        assert!(!line.starts_with("failed"), "{line}");
        let Some(ack) = line.strip_prefix("ack ") else {
            return;
        };
        let (t, n) = ack.trim_end().split_once(' ').expect("as the child writes");
        let (t, n): (usize, u64) = (t.parse().expect("a number"), n.parse().expect("a number"));
        self.acked[t] = self.acked[t].max(n);
    }

    /// Opens the region and compares.
    fn verify(&mut self, path: &Path, killed: u64) -> Heap<Bank> {
        let heap = open(path).unwrap_or_else(|e| panic!("after kill {killed}: {e}"));
        let report = heap.check();
        let report = report.unwrap_or_else(|e| panic!("after kill {killed}: {e}"));
        let bank = heap.root();
        for t in 0..THREADS {
            let made = *bank.made[t].read();
            assert!(
                made >= self.acked[t],
                "after kill {killed}: thread {t} was told {} and has {made}",
                self.acked[t]
            );
            for n in self.counted[t] + 1..=made {
                let (from, to, cents) = transfer_of(t as u64, n);
                self.balances[from] -= cents;
                self.balances[to] += cents;
            }
            self.counted[t] = made;
        }
        // The root and its vector.
        let mut blocks = 2;
        for (i, account) in bank.accounts.iter().enumerate() {
            let account = account.read();
            assert_eq!(
                account.cents, self.balances[i],
                "after kill {killed}: account {i}"
            );
            assert!(account.history.len() <= HISTORY);
            for entry in &account.history {
                assert_eq!(entry.text, *text_of(entry.thread, entry.n));
                let (from, to, _) = transfer_of(entry.thread, entry.n);
                assert!(i == from || i == to);
                assert!(entry.n <= self.counted[entry.thread as usize]);
            }
            let texts = account.history.iter().map(|entry| &entry.text);
            let texts = texts.chain(account.partners.values());
            // A short one stands in the value itself.
            blocks += texts.filter(|text| text.len() > 23).count();
            blocks += usize::from(account.history.capacity() > 0);
            blocks += usize::from(account.partners.capacity() > 0);
        }
        assert_eq!(self.balances.iter().sum::<i64>(), 0);
        assert_eq!(report.blocks, blocks as u64, "after kill {killed}: a leak");
        assert_eq!(heap.stats().live_blocks, blocks as u64);
        heap
    }
}

fn kill_again_and_again(place: &Place, name: &str) {
    let path = place.region();
    let seed = std::env::var("BARTENDER_TEST_SEED").ok();
    let seed = seed.and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| now.as_nanos() as u64)
    });
    println!("{name}: BARTENDER_TEST_SEED={seed}");
    let start = Instant::now();
    let mut model = Model::default();
    let (mut opened, mut recovered) = (0, 0);
    for kill in 1..=KILLS {
        let draw = mix(seed ^ kill);
        let (mut child, lines) = spawn(path);
        // Most are killed at work, some while they open.
        if !draw.is_multiple_of(5) {
            for line in &lines {
                opened += u64::from(line.starts_with("opened"));
                model.hear(&line);
                if line.starts_with("ack") {
                    break;
                }
            }
        }
        std::thread::sleep(Duration::from_micros((draw >> 8) % 15_000));
        child.kill();
        // Everything that it said before it died.
        for line in &lines {
            opened += u64::from(line.starts_with("opened"));
            model.hear(&line);
        }
        // Now and then the next child finds what this one left.
        if draw >> 32 & 3 != 0 || kill == KILLS {
            let heap = model.verify(path, kill);
            recovered += u64::from(!heap.report().region.clean);
            if draw >> 40 & 1 == 0 {
                // And the parent makes one, too.
                let n = model.counted[0] + 1;
                transfer(&heap, 0, n).expect("commits");
                model.acked[0] = n;
                heap.close().expect("closes");
            }
        }
    }
    model.verify(path, KILLS + 1).close().expect("closes");
    let transfers: u64 = model.counted.iter().sum();
    println!(
        "{name}: {KILLS} kills, {transfers} transfers, {recovered} recoveries by the parent, \
         {opened} children had opened, {:.1} s",
        start.elapsed().as_secs_f64()
    );
    assert!(transfers > KILLS, "the children hardly did anything");
}

/// For whoever ended a child by other means (`cargo xtask vm powercut`): checks the region against what was told,
/// `thread:transfer` of each thread. In an ordinary run of the tests there is no region, and it does nothing.
#[test]
fn what_was_acknowledged_is_there() {
    let (Some(path), Ok(told)) = (std::env::var_os(REGION), std::env::var(ACKED)) else {
        return;
    };
    let mut model = Model::default();
    for told in told.split(',') {
        model.hear(&format!("ack {}", told.replace(':', " ")));
    }
    let heap = model.verify(Path::new(&path), 0);
    let region = &heap.report().region;
    println!(
        "{}: transfers {:?}, told {:?}, {} records recovered, on {}",
        path.display(),
        model.counted,
        model.acked,
        region.records,
        heap.region().kind()
    );
    // And one more.
    transfer(&heap, 0, model.counted[0] + 1).expect("commits");
}

#[test]
fn transfers_survive_kills_in_shared_memory() {
    kill_again_and_again(&places::shared_memory(), "shared memory");
}

#[test]
fn transfers_survive_kills_on_disk() {
    kill_again_and_again(&places::disk(), "disk");
}

#[test]
fn transfers_survive_kills_on_persistent_memory() {
    for place in places::dax() {
        kill_again_and_again(&place, &place.region().display().to_string());
    }
}
