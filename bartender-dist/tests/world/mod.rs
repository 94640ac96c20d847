//! A cluster of simulated machines that keep one region, and what happens to them.

pub(crate) mod client;
pub(crate) mod disk;
pub(crate) mod history;
pub(crate) mod ledger;

use bartender_dist::coordinator::{
    Change, Compare, Coordinator, Lease, LeaseId, Snapshot, Transacted, Watch,
};
use bartender_dist::{
    Embedded, Error, Hosting, Node, NodeOptions, Policy, RegionRecord, Result, Serving, Wanted,
};
use bartender_net::Boxed;
use bartender_net::sim::Network;
use bartender_pm::medium::sim::{Image, SimKind};
use bartender_pm::mutant;
use client::{Client, FAR, look, place, words_of};
use disk::Disk;
use history::History;
use ledger::{Ledger, WORDS};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::sleep;

pub(crate) const REGION: &str = "words";
pub(crate) const LEASE: Duration = Duration::from_millis(1000);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// The coordinator as one machine reaches it: not at once, and not always; while it is `unsure`, an answer may be lost, and
/// a transaction may happen after it was given up.
#[derive(Debug)]
struct Distant {
    coordinator: Arc<Embedded>,
    network: Network,
    cut: Arc<AtomicBool>,
    unsure: Arc<AtomicBool>,
    /// Milliseconds that answers to transactions take longer.
    late: Arc<AtomicU64>,
}

impl Distant {
    async fn way(&self) {
        sleep(ms(self.network.draw(0..=3))).await;
        while self.cut.load(Ordering::Relaxed) {
            sleep(ms(10)).await;
        }
    }

    fn call<'a, T: Send + 'a>(&'a self, call: Boxed<'a, Result<T>>) -> Boxed<'a, Result<T>> {
        Box::pin(async move {
            self.way().await;
            let answer = call.await;
            self.way().await;
            if self.is_lost() {
                return Err(lost());
            }
            answer
        })
    }

    fn is_lost(&self) -> bool {
        self.unsure.load(Ordering::Relaxed) && self.network.draw(0..=5) == 0
    }
}

fn lost() -> Error {
    Error::Coordinator {
        endpoints: "(simulated)".into(),
        what: "the answer was lost".into(),
    }
}

impl Coordinator for Distant {
    fn read<'a>(&'a self, prefix: &'a str) -> Boxed<'a, Result<Snapshot>> {
        self.call(self.coordinator.read(prefix))
    }

    fn transact(
        &self,
        compares: Vec<Compare>,
        changes: Vec<Change>,
    ) -> Boxed<'_, Result<Transacted>> {
        if self.is_lost() {
            // It is on its way, and whoever sent it waits no longer.
            let (coordinator, late) = (self.coordinator.clone(), self.network.draw(1..=400));
            tokio::spawn(async move {
                sleep(ms(late)).await;
                let _ = coordinator.transact(compares, changes).await;
            });
            return Box::pin(async { Err(lost()) });
        }
        let done = self.call(self.coordinator.transact(compares, changes));
        Box::pin(async move {
            let answer = done.await;
            sleep(ms(self.late.load(Ordering::Relaxed))).await;
            answer
        })
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: u64) -> Boxed<'a, Result<Watch>> {
        self.call(self.coordinator.watch(prefix, after))
    }

    fn grant(&self, ttl: Duration) -> Boxed<'_, Result<Lease>> {
        self.call(self.coordinator.grant(ttl))
    }

    fn keep_alive(&self, lease: LeaseId) -> Boxed<'_, Result<Duration>> {
        self.call(self.coordinator.keep_alive(lease))
    }

    fn revoke(&self, lease: LeaseId) -> Boxed<'_, Result<()>> {
        self.call(self.coordinator.revoke(lease))
    }
}

/// What runs on a machine.
struct Running {
    node: Node,
    serving: Arc<Mutex<Option<Arc<Serving>>>>,
    programs: Vec<AbortHandle>,
    stopped: Arc<AtomicBool>,
}

/// One machine.
pub(crate) struct Machine {
    pub(crate) name: String,
    disk: Arc<Disk>,
    running: Option<Running>,
    /// What a crash left.
    left: Option<Image>,
    cut: Arc<AtomicBool>,
    started: bool,
}

/// All of it.
pub(crate) struct World {
    pub(crate) network: Network,
    coordinator: Arc<Embedded>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) ledger: Arc<Mutex<Ledger>>,
    pub(crate) history: Arc<Mutex<History>>,
    policy: Policy,
    lag: Duration,
    unsure: Arc<AtomicBool>,
    late: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    /// The page that is damaged next, of those without words.
    damaged: u64,
}

impl World {
    pub(crate) async fn new(network: Network, machines: usize, policy: Policy) -> World {
        let mut world = World {
            network: network.clone(),
            coordinator: Arc::new(Embedded::volatile()),
            machines: Vec::new(),
            ledger: Arc::new(Mutex::new(Ledger::new())),
            history: Arc::default(),
            policy,
            lag: ms([100, 1500][network.draw(0..=1) as usize]),
            unsure: Arc::default(),
            late: Arc::default(),
            stop: Arc::default(),
            damaged: 16,
        };
        for i in 0..machines {
            let kind = if network.draw(0..=1) == 0 {
                SimKind::Disk
            } else {
                SimKind::Dax
            };
            world.machines.push(Machine {
                name: format!("m{i}"),
                disk: Arc::new(Disk::new(kind)),
                running: None,
                left: None,
                cut: Arc::default(),
                started: false,
            });
        }
        for i in 0..machines {
            world.start(i).await;
        }
        world
    }

    /// A machine starts, with what its disk has.
    pub(crate) async fn start(&mut self, i: usize) {
        let names: Vec<String> = self.machines.iter().map(|m| m.name.clone()).collect();
        let machine = &mut self.machines[i];
        if machine.running.is_some() {
            return;
        }
        if let Some(image) = machine.left.take() {
            machine.disk.restart(image).await;
        }
        let fabric = if machine.started {
            self.network.restart(&machine.name)
        } else {
            self.network.node(&machine.name)
        };
        machine.started = true;
        let coordinator = Arc::new(Distant {
            coordinator: self.coordinator.clone(),
            network: self.network.clone(),
            cut: machine.cut.clone(),
            unsure: self.unsure.clone(),
            late: self.late.clone(),
        });
        let options = NodeOptions::new(&machine.name, "test")
            .lease(LEASE)
            .beat(ms(20))
            .lag(self.lag)
            .scrub_every(Some(ms(2000)));
        let node = Node::start(
            options,
            &machine.name,
            fabric,
            coordinator,
            machine.disk.clone(),
        )
        .await
        .expect("a name of its own");
        let hosting = node.host(
            REGION,
            Some(Wanted {
                replicas: names,
                policy: self.policy,
            }),
        );
        let (serving, stopped) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let mut programs = vec![tokio::spawn(serve(hosting, Arc::clone(&serving))).abort_handle()];
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        for _ in 0..2 {
            let client = Client {
                network: self.network.clone(),
                serving: serving.clone(),
                stopped: stopped.clone(),
                ledger: self.ledger.clone(),
                history: self.history.clone(),
                lock: lock.clone(),
                stop: self.stop.clone(),
            };
            programs.push(tokio::spawn(client.work()).abort_handle());
        }
        machine.running = Some(Running {
            node,
            serving,
            programs,
            stopped,
        });
    }

    /// A machine dies.
    pub(crate) async fn kill(&mut self, i: usize) {
        let seed = self.network.draw(0..=u64::MAX);
        let machine = &mut self.machines[i];
        let Some(running) = machine.running.take() else {
            return;
        };
        machine.left = Some(machine.disk.crash(seed));
        self.network.kill(&machine.name);
        running.node.resume();
        drop(running.node);
        running.programs.iter().for_each(AbortHandle::abort);
        running.serving.lock().expect("no panic").take();
        sleep(ms(1)).await;
    }

    /// Its processor stands still.
    pub(crate) fn hold(&mut self, i: usize) {
        let machine = &self.machines[i];
        if let Some(running) = &machine.running {
            running.stopped.store(true, Ordering::Relaxed);
            running.node.hold();
            self.network.pause(&machine.name);
        }
    }

    /// And goes on.
    pub(crate) fn go_on(&mut self, i: usize) {
        let machine = &self.machines[i];
        if let Some(running) = &machine.running {
            running.stopped.store(false, Ordering::Relaxed);
            running.node.resume();
            self.network.resume(&machine.name);
        }
    }

    /// It does not reach the coordinator, or does again.
    pub(crate) fn cut_coordinator(&self, i: usize, yes: bool) {
        self.machines[i].cut.store(yes, Ordering::Relaxed);
    }

    /// Answers of the coordinator get lost, or no longer.
    pub(crate) fn unsure(&self, yes: bool) {
        self.unsure.store(yes, Ordering::Relaxed);
    }

    /// Answers of the coordinator to transactions take so much longer.
    pub(crate) fn late(&self, millis: u64) {
        self.late.store(millis, Ordering::Relaxed);
    }

    /// Whether the reigning primary waits for all that the record has in sync: whoever is there may take over.
    pub(crate) async fn all_in_sync_are_required(&self) -> std::result::Result<(), String> {
        let Some(record) = self.record().await else {
            return Ok(());
        };
        for (i, machine) in self.machines.iter().enumerate() {
            let Some(serving) = self.serving(i).filter(|s| s.epoch() == record.epoch) else {
                continue;
            };
            let lags = serving.lags();
            let required = |name: &String| lags.iter().any(|l| l.backup == *name && l.required);
            let others = record.in_sync.iter().filter(|name| **name != machine.name);
            if let Some(missing) = others.clone().find(|name| !required(name))
                && serving.region().check_usable().is_ok()
            {
                return Err(format!(
                    "{missing} is in sync, and {} does not wait for it",
                    machine.name
                ));
            }
        }
        Ok(())
    }

    /// A machine's disk writes so much more, and then no more.
    pub(crate) fn break_disk(&self, i: usize, after: u64) {
        self.machines[i].disk.break_in(after);
    }

    /// And works again.
    pub(crate) fn mend_disk(&self, i: usize) {
        self.machines[i].disk.mend();
    }

    /// A machine's disk has no space left, or has some again.
    pub(crate) fn fill_disk(&self, i: usize, full: bool) {
        self.machines[i].disk.fill_up(full);
    }

    /// A page of a machine's copy decays, which no program looks at, and no other machine's does.
    pub(crate) fn damage(&mut self, i: usize) {
        if self.machines[i].running.is_some() && self.machines[i].disk.damage(self.damaged) {
            self.damaged += 1;
        }
    }

    /// Pages with words decay in one copy; the others say how they should be.
    async fn scrub(&self, primary: usize) -> std::result::Result<(), String> {
        let pages = place(WORDS - FAR - 1) / 4096;
        let i = self.network.draw(0..=self.machines.len() as u64 - 1) as usize;
        for _ in 0..2 {
            self.machines[i].disk.damage(self.network.draw(1..=pages));
        }
        let serving = self.serving(primary).ok_or("it served")?;
        let before = serving.scrubs().repaired;
        let mut report = serving.scrub().await.map_err(|e| e.to_string())?;
        for _ in 0..10 {
            if report.skipped == 0 {
                break;
            }
            // Not everybody was there.
            sleep(ms(100)).await;
            report = serving.scrub().await.map_err(|e| e.to_string())?;
        }
        if !report.is_sound() || serving.scrubs().repaired == before {
            return Err(format!("m{i} is damaged, and: {report:?}"));
        }
        Ok(())
    }

    /// A machine dies, and its disk with it, if all that was answered is on two others at least.
    pub(crate) async fn lose(&mut self, i: usize) {
        let name = &self.machines[i].name;
        let Some(record) = self.record().await else {
            return;
        };
        if record.in_sync.len() < 3 || record.primary == *name {
            return;
        }
        self.kill(i).await;
        let decays = self.network.draw(0..=1) == 0;
        match &mut self.machines[i].left {
            // Not all of it: neither header can be believed.
            Some(left) if decays && left.len() > 8192 => {
                for block in [0, 4096] {
                    left.write(block + 16, &[0xee; 8]);
                }
            }
            Some(left) => *left = Image::default(),
            None => {}
        }
    }

    /// What the coordinator knows of the region.
    pub(crate) async fn record(&self) -> Option<RegionRecord> {
        let region = format!("bartender/test/regions/{REGION}");
        let read = self.coordinator.read(&region).await.expect("sound");
        let entry = read.entries.first()?;
        Some(serde_json::from_slice(&entry.value).expect("a record"))
    }

    /// Whether the home has grown where it is served.
    pub(crate) fn is_grown(&self, i: usize) -> bool {
        (self.serving(i)).is_some_and(|serving| serving.region().size() > 2 << 20)
    }

    pub(crate) fn is_up(&self, i: usize) -> bool {
        self.machines[i].running.is_some()
    }

    /// Whether a machine serves.
    pub(crate) fn serves(&self, i: usize) -> bool {
        self.serving(i).is_some()
    }

    pub(crate) fn serving(&self, i: usize) -> Option<Arc<Serving>> {
        let running = self.machines[i].running.as_ref()?;
        running.serving.lock().expect("no panic").clone()
    }

    /// Everything is mended and everybody comes back; then all replicas are the same.
    pub(crate) async fn settle(&mut self) -> std::result::Result<(), String> {
        self.history.lock().expect("no panic").closed = true;
        self.network.heal_all();
        self.network.change(|settings| {
            settings.loss = 0;
            settings.persist = 0..=2;
        });
        self.unsure(false);
        for i in 0..self.machines.len() {
            self.machines[i].disk.mend();
            self.fill_disk(i, false);
            self.cut_coordinator(i, false);
            self.go_on(i);
            self.start(i).await;
        }
        // With a rule switched off it may never.
        let patience = if mutant::is("") { 600 } else { 60 };
        for _ in 0..patience {
            sleep(ms(100)).await;
            if let Some(i) = (0..self.machines.len()).find(|&i| self.all_follow(i)) {
                self.stop.store(true, Ordering::Relaxed);
                sleep(ms(2000)).await;
                if self.all_follow(i) {
                    self.scrub(i).await?;
                    return self.compare(i);
                }
                self.stop.store(false, Ordering::Relaxed);
            }
        }
        Err(format!("does not settle:{}", self.describe().await))
    }

    pub(crate) async fn describe(&self) -> String {
        let mut text = String::new();
        for (i, machine) in self.machines.iter().enumerate() {
            let position = machine.running.as_ref().map(|r| r.node.position(REGION));
            let lags = self.serving(i).map(|serving| serving.lags());
            text += &format!("\n  m{i}: {position:?}, serves {lags:?}");
        }
        for entry in self.coordinator.read("").await.expect("sound").entries {
            let value = String::from_utf8_lossy(&entry.value).into_owned();
            text += &format!("\n  {}: {value}", entry.key);
        }
        text
    }

    /// Whether machine `i` is primary, and all others have everything.
    pub(crate) fn all_follow(&self, i: usize) -> bool {
        self.serving(i).is_some_and(|serving| {
            let lags = serving.lags();
            lags.len() + 1 == self.machines.len() && lags.iter().all(|lag| lag.live && lag.required)
        })
    }

    fn compare(&self, primary: usize) -> std::result::Result<(), String> {
        let serving = self.serving(primary).ok_or("it served")?;
        let region = serving.region();
        if region.durable_seq() != region.last_seq() {
            return Err("not quiet".into());
        }
        region.checkpoint().map_err(|e| e.to_string())?;
        let home = region.freeze().map_err(|e| e.to_string())?;
        let mut ledger = self.ledger.lock().expect("no panic");
        let before = ledger.now();
        ledger.read(&words_of(region), before);
        look(region, &mut self.history.lock().expect("no panic"));
        let word = |i| {
            let mut word = [0; 8];
            if place(i) + 8 <= home.size() {
                home.read(place(i), &mut word);
            }
            u64::from_le_bytes(word)
        };
        ledger.read(&(0..WORDS).map(word).collect(), before);
        drop(ledger);
        for (i, machine) in self
            .machines
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != primary)
        {
            let node = &machine.running.as_ref().ok_or("it runs")?.node;
            let position = node.position(REGION).ok_or("it follows")?;
            if position.committed != region.committed() {
                return Err(format!(
                    "m{i} is at {position:?}, not {}",
                    region.committed()
                ));
            }
            let copy = node.home(REGION).ok_or("it follows")?;
            let (mut a, mut b) = (vec![0; 4096], vec![0; 4096]);
            for offset in (0..home.size().max(copy.size())).step_by(4096) {
                for (picture, page) in [(&home, &mut a), (&copy, &mut b)] {
                    page.fill(0);
                    if offset < picture.size() {
                        picture.read(offset, page);
                    }
                }
                if a != b {
                    return Err(format!("the home of m{i} differs at {offset}"));
                }
            }
        }
        Ok(())
    }

    /// All machines stop for good.
    pub(crate) async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for i in 0..self.machines.len() {
            self.kill(i).await;
        }
        sleep(ms(50)).await;
    }
}

/// The program of a machine: serves when it is primary.
async fn serve(mut hosting: Hosting, slot: Arc<Mutex<Option<Arc<Serving>>>>) {
    while let Ok(serving) = hosting.serve().await {
        let serving = Arc::new(serving);
        *slot.lock().expect("no panic") = Some(serving.clone());
        serving.over().await;
        slot.lock().expect("no panic").take();
    }
}
