//! `cargo xtask vm failover`: a cluster of two machines over RDMA, whose primary's power is cut under load.
//!
//! Each guest has a Soft-RoCE card, on a cable between the two, and its copy of one region on an NVDIMM, on ext4 with DAX. The
//! second also has the coordinator, durable and served over TCP. In each round the first is the primary and says which transfers
//! were acknowledged (`bartender/tests/machines.rs`), until its emulator is killed. The second has to take over with all of them and
//! go on; the first boots again with the NVDIMM as it was, becomes a backup, and its home has to become that of the
//! second, byte for byte. Then the second hands over, and the first has to have everything.
//!
//! The times that it prints say that it works, and nothing about hardware.

use super::machine::{Cable, Machine, Running};
use super::setup::{make_folder, write};
use super::{quoted, suite};
use crate::step::Failure;
use std::collections::VecDeque;
use std::fs;
use std::io::Write;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime};

/// Power cuts unless the caller says how many.
pub(super) const ROUNDS: u32 = 3;
/// Acknowledgements before a cut, at least.
const FEWEST: u64 = 50;
/// Longest work under load before a cut.
const LONGEST: Duration = Duration::from_secs(6);
/// How long one step of the story may take: a boot, a lease and a copy are in it.
const PATIENCE: Duration = Duration::from_secs(300);
/// Makes the card.
const CARD: &str = include_str!("../../vm/card.sh");

const NAMES: [&str; 2] = ["a", "b"];
const ADDRESSES: [&str; 2] = ["10.9.1.1", "10.9.1.2"];
/// The first's power is cut; the second stands in for it.
const VICTIM: usize = 0;
const STAND_IN: usize = 1;

/// Cuts the power `rounds` times.
pub(super) fn run(rounds: u32) -> Result<(), Failure> {
    let programs = suite::build("bartender", &["machines"], &["rdma"], &[])?;
    let program = &programs[0];
    let mut machines = [
        Machine::of_node("failover-a")?,
        Machine::of_node("failover-b")?,
    ];
    let [first, second] = ports()?;
    for (i, (near, far)) in [(first, second), (second, first)].into_iter().enumerate() {
        let number = i as u8 + 1;
        machines[i].plug_in(Cable { number, near, far });
        machines[i].blank()?;
        give(&machines[i], "")?;
    }
    let keys = certificates(program, &machines[VICTIM])?;
    let scripts = [0, 1].map(|i| script(i, program, &keys));
    let (sender, said) = channel();
    let start = |i: usize| {
        let words = Words {
            who: i,
            sender: sender.clone(),
            line: Vec::new(),
        };
        machines[i].start(&scripts[i], words)
    };
    let mut story = Story {
        said,
        last: VecDeque::new(),
        running: [None, None],
        answered: 0,
    };
    let since = Instant::now();
    story.running[STAND_IN] = Some(start(STAND_IN)?);
    story.running[VICTIM] = Some(start(VICTIM)?);
    let mut sums = [Vec::new(), Vec::new(), Vec::new()];
    for round in 1..=rounds {
        let worked = story.until_loaded(&machines[STAND_IN])?;
        let answered = story.answered;
        let cut = story.cut()?;
        let late = story.answered - answered;
        let (epoch, took_over) = story.reign(STAND_IN)?;
        let first = story.first_answer()?;
        let booting = Instant::now();
        story.running[VICTIM] = Some(start(VICTIM)?);
        let together = story.hear(STAND_IN, "together", "the first machine in sync again")?;
        let card = story.hear(STAND_IN, "card ", "what its card has done")?.1;
        let home = story
            .hear(STAND_IN, "home ", "what the second has at home")?
            .1;
        give(&machines[VICTIM], "compare")?;
        story.same_home(&home)?;
        give(&machines[VICTIM], "")?;
        hand_over(&machines[STAND_IN], epoch)?;
        let seconds = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64();
        let (took_over, first) = (seconds(cut, took_over), seconds(cut, first));
        let back = seconds(booting, together.0);
        println!(
            "vm: power cut {round} after {:.1} s of load; {} acknowledged in all, {late} of them heard after the cut, all there; \
             taken over after {took_over:.1} s, the first commit after {first:.1} s; in sync again {back:.1} s after the boot began, \
             {home} equal, {card} packets",
            worked.as_secs_f64(),
            story.answered,
        );
        for (sum, took) in sums.iter_mut().zip([took_over, first, back]) {
            sum.push(took);
        }
    }
    story.handed_over(&machines[STAND_IN])?;
    let total = story.answered;
    let shown = sums.map(|mut sum| {
        sum.sort_by(f64::total_cmp);
        let at = |i: usize| sum.get(i).copied().unwrap_or_default();
        format!("{:.1} to {:.1} s", at(0), at(sum.len().saturating_sub(1)))
    });
    println!(
        "vm: {rounds} power cuts of the primary, {total} transfers acknowledged, 0 lost, homes equal each time; taken over after {}, first \
         commit after {}, in sync again after {}; {:.0} s in all",
        shown[0],
        shown[1],
        shown[2],
        since.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Two that are free, for the cable.
fn ports() -> Result<[u16; 2], Failure> {
    let failed = |error| format!("vm: no ports for the cable: {error}");
    let free = || UdpSocket::bind("127.0.0.1:0").map_err(failed);
    let sockets = [free()?, free()?];
    let port = |socket: &UdpSocket| socket.local_addr().map(|address| address.port());
    Ok([
        port(&sockets[0]).map_err(failed)?,
        port(&sockets[1]).map_err(failed)?,
    ])
}

/// Tells the program in a machine what to do.
fn give(machine: &Machine, order: &str) -> Result<(), Failure> {
    write(&machine.output().join("order"), order.as_bytes())
}

/// Tells the stand-in to let the other go on. (It may be quicker itself, and is told again then.)
fn hand_over(stand_in: &Machine, epoch: u64) -> Result<(), Failure> {
    give(stand_in, &format!("hand over {epoch}"))
}

/// Makes both members' certificates: the folder, which guests see.
fn certificates(program: &str, machine: &Machine) -> Result<String, Failure> {
    let folder = machine.output().join("keys");
    let _ = fs::remove_dir_all(&folder);
    make_folder(&folder)?;
    let made = Command::new(program)
        .args(["--exact", "certificates"])
        .env("BARTENDER_MACHINE_ISSUE", &folder)
        .stdout(Stdio::null())
        .status();
    match made {
        Ok(status) if status.success() => Ok(folder.to_string_lossy().into_owned()),
        _ => Err("vm: the certificates could not be made".into()),
    }
}

/// What runs in a guest.
fn script(i: usize, program: &str, keys: &str) -> String {
    let (address, coordinator) = (ADDRESSES[i], ADDRESSES[STAND_IN]);
    let variables: String = [
        ("NAME", NAMES[i]),
        ("DATA", super::DAX_FOLDER),
        ("KEYS", keys),
        ("ORDERS", "/run/out"),
        ("LISTEN", &format!("{address}:7000")),
        ("COORDINATOR", &format!("{coordinator}:7100")),
        ("CARD", "rxe0"),
    ]
    .into_iter()
    .map(|(name, value)| format!("export BARTENDER_MACHINE_{name}={}\n", quoted(value)))
    .collect();
    let program = quoted(program);
    format!(
        "{CARD}\ncard_up {address} || {{ echo 'failed: no Soft-RoCE card'; exit 1; }}\n{variables}\
         {program} --exact member --nocapture\n"
    )
}

/// What one machine says, line by line.
struct Words {
    who: usize,
    sender: Sender<(Instant, usize, String)>,
    line: Vec<u8>,
}

impl Write for Words {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let now = Instant::now();
        for &byte in bytes {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
            // Whoever listened may have gone.
            let _ = self.sender.send((now, self.who, line));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What was heard, and what has to be true therefore.
struct Story<'m> {
    said: Receiver<(Instant, usize, String)>,
    last: VecDeque<String>,
    running: [Option<Running<'m>>; 2],
    /// The highest transfer that was acknowledged.
    answered: u64,
}

impl Story<'_> {
    /// The next line, and who said it.
    fn next(&mut self, until: Instant, what: &str) -> Result<(Instant, usize, String), Failure> {
        loop {
            match self.said.recv_timeout(Duration::from_millis(100)) {
                Ok(said) => {
                    self.note(&said)?;
                    return Ok(said);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.wrong("nobody speaks any more"));
                }
            }
            for (running, name) in self.running.iter_mut().zip(NAMES) {
                let Some(running) = running else { continue };
                if running.is_over()? {
                    return Err(self.wrong(&format!("machine {name} ended by itself")));
                }
            }
            if Instant::now() > until {
                return Err(self.wrong(&format!("waited in vain for {what}")));
            }
        }
    }

    /// Takes a line in.
    fn note(&mut self, (_, who, line): &(Instant, usize, String)) -> Result<(), Failure> {
        if let Some(n) = line.strip_prefix("answered ") {
            let n = n.parse::<u64>();
            let n = n.map_err(|_| self.wrong(&format!("{} said {line:?}", NAMES[*who])))?;
            self.answered = self.answered.max(n);
            return Ok(());
        }
        if self.last.len() == 20 {
            self.last.pop_front();
        }
        self.last.push_back(format!("{}: {line}", NAMES[*who]));
        if line.starts_with("failed") || line.contains("panicked") {
            eprintln!("vm: {}: {line}", NAMES[*who]);
        }
        Ok(())
    }

    fn wrong(&self, what: &str) -> Failure {
        let last: Vec<&str> = self.last.iter().map(String::as_str).collect();
        format!(
            "vm: {what}; {} transfers were acknowledged; last heard, but for those:\n  {}",
            self.answered,
            last.join("\n  ")
        )
    }

    /// Waits for a line of `who` that begins so: when, and the line.
    fn hear(&mut self, who: usize, begins: &str, what: &str) -> Result<(Instant, String), Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            let (at, speaker, line) = self.next(until, what)?;
            if speaker == who && line.starts_with(begins) {
                return Ok((at, line));
            }
        }
    }

    /// Everything that was acknowledged has to be there when a reign begins: its epoch.
    fn judge(&mut self, who: usize, line: &str, exact: bool) -> Result<u64, Failure> {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |i: usize| words.get(i).and_then(|word| word.parse::<u64>().ok());
        let (Some(epoch), Some(made)) = (number(1), number(2)) else {
            return Err(self.wrong(&format!("{} said {line:?}", NAMES[who])));
        };
        let answered = self.answered;
        if made < answered || exact && made != answered {
            let what = format!(
                "{answered} transfers were acknowledged, {} has {made}",
                NAMES[who]
            );
            return Err(self.wrong(&what));
        }
        // One that was not acknowledged may be there as well, and then it stays.
        self.answered = made;
        Ok(epoch)
    }

    /// Waits until `who` reigns: its epoch, and when.
    fn reign(&mut self, who: usize) -> Result<(u64, Instant), Failure> {
        let (at, line) = self.hear(who, "reign ", &format!("{} as the primary", NAMES[who]))?;
        Ok((self.judge(who, &line, false)?, at))
    }

    /// Waits until the first machine commits under load, and has done so for a while: for how long.
    fn until_loaded(&mut self, stand_in: &Machine) -> Result<Duration, Failure> {
        let until = Instant::now() + PATIENCE;
        let pause = LONGEST.mul_f64(fraction());
        let mut loaded: Option<(Instant, u64)> = None;
        loop {
            let what = "load on the first machine";
            let (at, who, line) = self.next(until, what)?;
            if line.starts_with("reign ") {
                let epoch = self.judge(who, &line, false)?;
                loaded = None;
                if who == STAND_IN {
                    // It was quicker than the first, or that stood still for longer than a lease: it costs time only.
                    println!("vm: taken over without a cut, in epoch {epoch}");
                    hand_over(stand_in, epoch)?;
                } else {
                    println!("vm: {} is the primary: {line}", NAMES[who]);
                }
            } else if who == VICTIM && line == "together" {
                loaded = Some((at, self.answered));
            } else if let Some((since, before)) = loaded
                && at > since + pause
                && self.answered >= before + FEWEST
            {
                return Ok(at - since);
            }
        }
    }

    /// Waits until the first goes on with exactly what the second had: nothing is unknown.
    fn handed_over(&mut self, stand_in: &Machine) -> Result<(), Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            let (_, who, line) = self.next(until, "the first machine as the primary")?;
            if line.starts_with("reign ") {
                let epoch = self.judge(who, &line, true)?;
                match who {
                    STAND_IN => hand_over(stand_in, epoch)?,
                    _ => return Ok(()),
                }
            }
        }
    }

    /// Cuts the first machine's power: when. What it had said before counts.
    fn cut(&mut self) -> Result<Instant, Failure> {
        let running = self.running[VICTIM].take();
        let at = Instant::now();
        running
            .ok_or("vm: the first machine is not running")?
            .cut()?;
        while let Ok(said) = self.said.try_recv() {
            self.note(&said)?;
            if said.2.starts_with("reign ") {
                self.judge(said.1, &said.2, false)?;
                return Err(self.wrong("another reign began while the power was cut; run it again"));
            }
        }
        Ok(at)
    }

    /// When the second first answered.
    fn first_answer(&mut self) -> Result<Instant, Failure> {
        let what = "a commit without the first machine";
        Ok(self.hear(STAND_IN, "answered ", what)?.0)
    }

    /// Waits until the first machine's home is that of the second.
    fn same_home(&mut self, home: &str) -> Result<(), Failure> {
        let until = Instant::now() + PATIENCE / 5;
        loop {
            let what = format!("{home:?} of the first machine as well");
            let (_, who, line) = self.next(until, &what)?;
            if who == VICTIM && line == home {
                return Ok(());
            }
        }
    }
}

/// A number between 0 and 1, another one each time.
fn fraction() -> f64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    f64::from(now.unwrap_or_default().subsec_micros() % 1000) / 1000.0
}
