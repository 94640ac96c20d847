//! Crash exploration of the durable coordinator, and regions that it must not take for its own.

use super::super::{Change, Compare, Coordinator};
use super::*;
use crate::Embedded;
use bartender_pm::medium::sim::{Bound, Image, Rng, SimKind, SimMedium, SimMemory};
use std::sync::Arc;

const HOME: u64 = 8 << 20;

/// All that survives.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Picture {
    revision: u64,
    last_lease: u64,
    keys: BTreeMap<String, Kept>,
    leases: BTreeMap<LeaseId, Duration>,
}

/// What a run does: first durable, then visible, as [`Embedded`] does it.
struct Run {
    durable: Durable,
    state: State,
    now: Instant,
    picture: Picture,
}

fn small() -> Options {
    let mut options = options();
    options.max_size(HOME).log_size(256 << 10).background(false);
    options
}

impl Run {
    fn open(sim: Arc<SimMedium>) -> Result<Run> {
        let now = Instant::now();
        let (durable, state) = Durable::open(small().open_on(sim)?, now)?;
        let picture = Picture::of(&durable, &state);
        Ok(Run {
            durable,
            state,
            now,
            picture,
        })
    }

    fn step(&mut self, delta: Delta) -> Result<()> {
        self.durable.commit(&delta)?;
        let picture = &mut self.picture;
        picture.revision = delta.revision;
        for (key, kept) in &delta.keys {
            match kept {
                Some(kept) => drop(picture.keys.insert(key.clone(), kept.clone())),
                None => drop(picture.keys.remove(key)),
            }
        }
        if let Some((id, ttl)) = delta.granted {
            picture.last_lease = id.0;
            picture.leases.insert(id, ttl);
        }
        if let Some(id) = delta.ended {
            picture.leases.remove(&id);
        }
        self.state.apply(delta, self.now);
        Ok(())
    }

    /// One random step; `n` makes what it writes its own.
    fn random(&mut self, rng: &mut Rng, n: u64) -> Result<()> {
        let leases: Vec<_> = self.picture.leases.keys().copied().collect();
        let lease = |rng: &mut Rng| match leases.len() as u64 {
            0 => None,
            count => Some(leases[rng.below(count) as usize]),
        };
        match rng.below(8) {
            0 => {
                let ttl = Duration::from_millis(1000 + n);
                let (_, delta) = self.state.plan_grant(ttl);
                self.step(delta)
            }
            1 => match lease(rng).and_then(|id| self.state.plan_end(id)) {
                Some(delta) => self.step(delta),
                None => Ok(()),
            },
            _ => {
                let mut changes = BTreeMap::new();
                for _ in 0..=rng.below(3) {
                    let key = format!("key/{}", rng.below(12));
                    let size = [0, 3, 40, 700, 9000][rng.below(5) as usize];
                    let bound = (rng.below(3) == 0).then(|| lease(rng)).flatten();
                    let change = match (rng.below(4), bound) {
                        (0, _) => Change::delete(&*key),
                        (_, Some(id)) => Change::put_bound(&*key, vec![n as u8; size], id),
                        (_, None) => Change::put(&*key, vec![n as u8; size]),
                    };
                    changes.insert(key, change);
                }
                let changes = changes.into_values().collect();
                let delta = self.state.plan(&[], changes)?.expect("no comparison");
                match delta.keys.is_empty() {
                    true => Ok(()),
                    false => self.step(delta),
                }
            }
        }
    }
}

impl Picture {
    fn of(durable: &Durable, state: &State) -> Picture {
        let read = state.read("");
        let kept = |e: crate::coordinator::Entry| {
            let (value, revision, lease) = (e.value, e.revision, e.lease);
            (
                e.key,
                Kept {
                    value,
                    revision,
                    lease,
                },
            )
        };
        let ttl = |place: &Place| {
            let bytes = durable.block(place.item, Item::LEN).unwrap().first_chunk();
            Duration::from_millis(Item::from_bytes(bytes.unwrap()).number)
        };
        Picture {
            revision: read.revision,
            last_lease: durable.last_lease,
            keys: read.entries.into_iter().map(kept).collect(),
            leases: durable.leases.iter().map(|(id, p)| (*id, ttl(p))).collect(),
        }
    }
}

/// Runs random steps and explores their crashes; how many images there were.
fn explore(kind: SimKind, steps: u64, seed: u64) -> Result<u64, String> {
    let memory = SimMemory::new(HOME);
    let sim = SimMedium::new(kind, Image::default(), &memory);
    let mut run = Run::open(sim.clone()).map_err(|e| e.to_string())?;
    let mut pictures = vec![run.picture.clone()];
    sim.note(0);
    let mut rng = Rng(seed);
    for step in 1..=steps {
        run.random(&mut rng, step).map_err(|e| e.to_string())?;
        pictures.push(run.picture.clone());
        sim.note(step);
        if step % 9 == 0 {
            run.durable
                .heap
                .region()
                .checkpoint()
                .expect("no I/O error");
        }
    }
    let trace = sim.trace();
    drop(run);
    drop(sim);
    let bound = Bound {
        images_per_point: 10,
        points: 200,
        seed,
    };
    trace.explore(bound, |crash| {
        let answered = crash.notes.last().map_or(0, |n| *n as usize);
        let allowed = &pictures[answered..pictures.len().min(answered + 2)];
        go_on(kind, &memory, crash.image, allowed)
    })
}

/// Recovers: the state is one of `allowed`, nothing more is live, and it goes on from there.
fn go_on(
    kind: SimKind,
    memory: &Arc<SimMemory>,
    image: Image,
    allowed: &[Picture],
) -> Result<(), String> {
    let words = |e: Error| e.to_string();
    let sim = SimMedium::new(kind, image, memory);
    sim.stop_recording();
    let mut run = Run::open(sim.clone()).map_err(words)?;
    if !allowed.contains(&run.picture) {
        return Err(format!("{:?} instead of one of {allowed:?}", run.picture));
    }
    let heap = &run.durable.heap;
    heap.check().map_err(|e| e.to_string())?;
    let items = run.picture.keys.len() + run.picture.leases.len();
    let chunks = u64::from(run.durable.chunks != 0);
    let blocks = 2 + chunks + items as u64;
    // Looking at words, opening may take a block that died for a live one; never the other way round.
    let live = heap.stats().live_blocks;
    if live < blocks {
        return Err(format!("{live} blocks live, {blocks} in use"));
    }
    let mut rng = Rng(7);
    for step in 0..6 {
        run.random(&mut rng, 200 + step).map_err(words)?;
    }
    let picture = run.picture.clone();
    let image = sim.image();
    drop(run);
    drop(sim);
    let sim = SimMedium::new(kind, image, memory);
    sim.stop_recording();
    match Run::open(sim).map_err(words)?.picture == picture {
        true => Ok(()),
        false => Err("the second recovery found another state".into()),
    }
}

#[test]
fn a_crash_leaves_the_state_of_what_was_answered_or_one_step_more() {
    for kind in [SimKind::Dax, SimKind::Disk] {
        for seed in 1..=2 {
            let images = explore(kind, 40, seed).expect("crash-safe");
            assert!(images > 200, "{images}");
        }
    }
}

/// A rule that is switched off while it runs has to be noticed.
fn noticed(rule: &'static str, kind: SimKind) {
    if mutant::ON {
        let found = mutant::with(rule, || {
            (1..6).find_map(|seed| explore(kind, 40, seed).err())
        });
        let found = found.unwrap_or_else(|| panic!("nobody noticed `{rule}`"));
        println!("{rule}: {found}");
    }
}

#[test]
fn mutant_answers_before_the_barrier_are_noticed() {
    noticed("answered_before_durable", SimKind::Disk);
}

#[test]
fn mutant_items_that_are_not_logged_are_noticed() {
    noticed("items_not_logged", SimKind::Dax);
}

#[test]
fn after_an_io_error_it_says_so_until_it_is_opened_again() {
    let memory = SimMemory::new(HOME);
    let sim = SimMedium::new(SimKind::Disk, Image::default(), &memory);
    let mut run = Run::open(sim.clone()).unwrap();
    let plan = |run: &Run| {
        let put = vec![Change::put("k", "v")];
        run.state.plan(&[], put).unwrap().unwrap()
    };
    run.step(plan(&run)).unwrap();
    let before = run.picture.clone();
    sim.fail_in(0);
    let delta = plan(&run);
    let first = run.step(delta.clone()).unwrap_err();
    assert!(run.durable.check().is_err());
    sim.fail_never();
    let again = run.step(delta).unwrap_err();
    assert!(again.to_string().contains(&first.to_string()), "{again}");
    assert_eq!(run.picture, before);
    let image = sim.image();
    drop(run);
    drop(sim);
    let run = Run::open(SimMedium::new(SimKind::Disk, image, &memory)).unwrap();
    assert!(run.picture.revision >= before.revision);
}

#[test]
fn a_full_region_refuses_and_goes_on() {
    let memory = SimMemory::new(HOME);
    let sim = SimMedium::new(SimKind::Dax, Image::default(), &memory);
    sim.stop_recording();
    let mut run = Run::open(sim).unwrap();
    let mut big = 0;
    let refused = loop {
        let put = vec![Change::put(format!("big{big}"), vec![1; 100_000])];
        let delta = run.state.plan(&[], put).unwrap().unwrap();
        match run.step(delta) {
            Ok(()) => big += 1,
            Err(error) => break error,
        }
    };
    assert!(big > 10 && run.durable.check().is_ok(), "{big}: {refused}");
    let delete = (0..big).map(|i| Change::delete(format!("big{i}")));
    for delete in delete {
        let delta = run.state.plan(&[], vec![delete]).unwrap().unwrap();
        run.step(delta).unwrap();
    }
    let put = vec![Change::put("again", vec![1; 100_000])];
    let delta = run.state.plan(&[], put).unwrap().unwrap();
    run.step(delta).unwrap();
}

#[tokio::test]
async fn what_was_answered_is_there_when_it_is_opened_again_and_leases_begin_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("coordinator.region");
    let embedded = Embedded::open(&path).unwrap();
    let ttl = Duration::from_millis(300);
    let lease = embedded.grant(ttl).await.unwrap();
    // More than a chunk has slots.
    for i in 0..6 {
        let put = |n| Change::put(format!("k{}", i * 100 + n), format!("{n}"));
        let puts = (0..100).map(put).collect();
        embedded.transact(vec![], puts).await.unwrap();
    }
    let put = Change::put_bound("bound", "v", lease.id);
    embedded.transact(vec![], vec![put]).await.unwrap();
    let before = embedded.read("").await.unwrap();
    assert_eq!(before.entries.len(), 601);
    let busy = Embedded::open(&path).unwrap_err();
    assert!(matches!(busy, Error::Region(_)), "{busy}");
    drop(embedded);
    // Its end passes while nobody is there.
    tokio::time::sleep(ttl).await;
    let opened = Instant::now();
    let embedded = Embedded::open(&path).unwrap();
    assert_eq!(embedded.keep_alive(lease.id).await.unwrap(), ttl);
    assert_eq!(embedded.read("").await.unwrap(), before);
    // What was missed is unknown, what comes is not.
    let mut watch = embedded.watch("", before.revision - 1).await.unwrap();
    let error = watch.next().await.unwrap_err();
    assert!(matches!(error, Error::Compacted { .. }), "{error}");
    let mut watch = embedded.watch("", before.revision).await.unwrap();
    let changes = watch.next().await.unwrap();
    assert!(opened.elapsed() >= ttl);
    assert_eq!(changes.keys, [("bound".to_owned(), None)]);
    assert_ne!(embedded.grant(ttl).await.unwrap().id, lease.id);
    let compare = vec![Compare::Revision("k1".into(), before.entries[1].revision)];
    embedded.transact(compare, vec![]).await.unwrap();
}

#[test]
fn another_programs_region_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.region");
    let heap = Heap::open_untyped(options().open(&path).unwrap()).unwrap();
    let table = heap.alloc(Layout::new::<NamedRoot>()).unwrap();
    let region = heap.region().clone();
    let root = NamedRoot::new(b"mine", table.ptr.addr().get() as u64).unwrap();
    let mut record = Record::new();
    let entry = table.entry.unwrap();
    record.change(entry.offset, &entry.bytes);
    let address = table.ptr.as_ptr().expose_provenance() as u64;
    let slot = region.base().addr() as u64 + heap.root_slot();
    let mut writer = region.writer().unwrap();
    put(&region, &mut record, address, &root.to_bytes());
    put(&region, &mut record, slot, &address.to_le_bytes());
    let ticket = writer.append(&mut record, Durability::Immediate).unwrap();
    drop(writer);
    region.wait_durable(ticket.seq).unwrap();
    drop((heap, region));
    let error = Embedded::open(&path).unwrap_err();
    assert!(error.to_string().contains("another program's"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_durable_one_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let embedded = Embedded::open(folder.path().join("a.region")).unwrap();
    crate::coordinator::contract::all(Arc::new(embedded), "t/").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_durable_one_keeps_the_contract_among_threads() {
    let folder = tempfile::tempdir().unwrap();
    let embedded = Embedded::open(folder.path().join("a.region")).unwrap();
    crate::coordinator::contract::all(Arc::new(embedded), "t/").await;
}
