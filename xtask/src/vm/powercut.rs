//! `cargo xtask vm powercut`: machines that die in the middle of their work.
//!
//! Two programs in the guest, one on ext4 with DAX and one on a device, move
//! money between accounts and say which transfers were acknowledged
//! (`bartender/tests/kill.rs`). At a random moment the emulator is killed, and
//! with it the guest's kernel, page cache and memory. The next boot finds the
//! NVDIMMs as they were, opens both regions, checks that every acknowledged
//! transfer is there, whole, and goes on.

use super::machine::Machine;
use super::{DAX_DEVICE, quoted, suite};
use crate::step::Failure;
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Power cuts unless the caller says how many.
pub(super) const ROUNDS: u32 = 5;
/// Longest work between the first acknowledgement and the cut.
const LONGEST: Duration = Duration::from_secs(8);

/// Names of the regions, and where they lie below the root.
const PLACES: [(&str, &str); 2] = [("ext4", "/run/pmem/bank.region"), ("device", DAX_DEVICE)];

/// Cuts the power `rounds` times.
pub(super) fn run(rounds: u32) -> Result<(), Failure> {
    let machine = Machine::of_node("powercut")?;
    machine.blank()?;
    let programs = suite::build("bartender", &["kill"], &[], &[])?;
    let program = quoted(&programs[0]);
    let mut told = Told::default();
    for round in 1..=rounds {
        let heard = Heard::default();
        let mut script = verify(&program, &told);
        for (place, path) in PLACES {
            script += &format!(
                "BARTENDER_TEST_KILL_REGION={path} {program} --exact work_until_killed --nocapture \
                 | sed -nu 's/^\\(ack\\|failed\\) /{place} &/p' &\n"
            );
        }
        let mut running = machine.start(&(script + "wait\n"), heard.clone())?;
        let mut first = None;
        let pause = LONGEST.mul_f64(fraction());
        while first.is_none_or(|first: Instant| first.elapsed() < pause) {
            if running.is_over()? {
                running.wait()?;
                print!("{}", heard.text());
                return Err(format!("vm: round {round}: the work ended by itself"));
            }
            if first.is_none() && PLACES.iter().all(|(place, _)| heard.any(place)) {
                first = Some(Instant::now());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        running.cut()?;
        let new = heard.take(&mut told)?;
        let pause = pause.as_secs_f64();
        println!("vm: power cut {round} after {pause:.2} s of work, {new} acknowledgements");
    }
    let status = machine
        .start(&verify(&program, &told), std::io::stdout())?
        .wait()?;
    if status != 0 {
        return Err("vm: the regions are not what they were when the power was cut".into());
    }
    println!("vm: {rounds} power cuts; every acknowledged transfer is there");
    Ok(())
}

/// The highest acknowledged transfer of each thread, by place.
type Told = BTreeMap<String, BTreeMap<usize, u64>>;

/// A script that checks both regions, or exits.
fn verify(program: &str, told: &Told) -> String {
    let mut script = String::new();
    for (place, path) in PLACES {
        let Some(threads) = told.get(place) else {
            continue;
        };
        let acked: Vec<String> = threads.iter().map(|(t, n)| format!("{t}:{n}")).collect();
        script += &format!(
            "BARTENDER_TEST_KILL_REGION={path} BARTENDER_TEST_KILL_ACKED={} {program} --exact \
             what_was_acknowledged_is_there --nocapture || exit 1\n",
            acked.join(",")
        );
    }
    script
}

/// What the guest has said.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<u8>>>);

impl Heard {
    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn any(&self, place: &str) -> bool {
        self.text().contains(&format!("{place} ack "))
    }

    /// Adds what was acknowledged to `told`, and says how much that was.
    fn take(&self, told: &mut Told) -> Result<u64, Failure> {
        let text = self.text();
        let mut count = 0;
        // A last line without an end was not said.
        for line in text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
        {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [place, "ack", thread, n] => {
                    let number = |text: &str| text.parse::<u64>();
                    let (Ok(thread), Ok(n)) = (number(thread), number(n)) else {
                        return Err(format!("vm: the guest said {line:?}"));
                    };
                    let threads = told.entry(place.to_owned()).or_default();
                    let highest = threads.entry(thread as usize).or_default();
                    *highest = n.max(*highest);
                    count += 1;
                }
                _ => print!("{line}"),
            }
        }
        Ok(count)
    }
}

impl Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A number between 0 and 1, another one each time.
fn fraction() -> f64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    f64::from(now.unwrap_or_default().subsec_micros() % 1000) / 1000.0
}
