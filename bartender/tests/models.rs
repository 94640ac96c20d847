//! Transactions against a model, with aborts, reopens and crashes among the operations.
#![cfg(not(loom))]

use bartender::{Durability, Error, Heap, Mut, PBox, PMutex, PVec, Result};
use bartender_pm::medium::sim::{Bound, SimKind, SimMedium, SimMemory};
use proptest::prelude::*;

#[path = "../../bartender-pm/tests/places/mod.rs"]
mod places;

const SLOTS: usize = 6;

type Slot = Option<PBox<(u64, Option<PBox<u64>>)>>;
type Root = PMutex<([Slot; SLOTS], PVec<u32>)>;
/// What the slots hold, and the vector.
type Model = ([Option<(u64, Option<u64>)>; SLOTS], Vec<u32>);

#[derive(Debug, Clone)]
enum Op {
    Set(usize, u64, Option<u64>),
    Clear(usize),
    Add(usize, u64),
    Swap(usize, usize),
    /// Out of the region and back into another slot.
    Move(usize, usize),
    /// Into another slot without leaving the region; with the same slot twice: taken and not put anywhere.
    MoveInside(usize, usize),
    Push(u32, usize),
    Truncate(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let slot = || 0..SLOTS;
    prop_oneof![
        (slot(), any::<u64>(), any::<Option<u64>>()).prop_map(|(i, a, b)| Op::Set(i, a, b)),
        slot().prop_map(Op::Clear),
        (slot(), 1..9u64).prop_map(|(i, n)| Op::Add(i, n)),
        (slot(), slot()).prop_map(|(i, j)| Op::Swap(i, j)),
        (slot(), slot()).prop_map(|(i, j)| Op::Move(i, j)),
        (slot(), slot()).prop_map(|(i, j)| Op::MoveInside(i, j)),
        (any::<u32>(), 1..200usize).prop_map(|(v, n)| Op::Push(v, n)),
        (0..300usize).prop_map(Op::Truncate),
    ]
}

fn apply(root: &mut Mut<'_, ([Slot; SLOTS], PVec<u32>)>, op: &Op) -> Result<()> {
    let (mut slots, mut vec) = root.project();
    let slots = &mut slots.project();
    match *op {
        Op::Set(i, a, b) => slots[i].set(Some(PBox::new((a, b.map(PBox::new)))))?,
        Op::Clear(i) => slots[i].set(None)?,
        Op::Add(i, n) => {
            if let Some(mut slot) = slots[i].project() {
                let (mut a, mut b) = slot.project().into_project();
                *a = a.wrapping_add(n);
                if let Some(mut b) = b.project() {
                    let mut b = b.project();
                    *b = b.wrapping_add(n);
                }
            }
        }
        Op::Swap(i, j) if i != j => {
            let [a, b] = slots.get_disjoint_mut([i, j]).expect("two slots");
            Mut::swap(a, b)?;
        }
        Op::Swap(..) => {}
        Op::Move(i, j) => {
            let taken = Mut::take(&mut slots[i])?;
            slots[j].set(taken)?;
        }
        Op::MoveInside(i, j) => {
            let moved = Mut::take_moved(&mut slots[i])?;
            if i != j {
                slots[j].set_moved(moved)?;
            }
        }
        Op::Push(value, count) => {
            for _ in 0..count {
                vec.push(value)?;
            }
        }
        Op::Truncate(len) => vec.truncate(len)?,
    }
    Ok(())
}

fn apply_to_model((slots, vec): &mut Model, op: &Op) {
    match *op {
        Op::Set(i, a, b) => slots[i] = Some((a, b)),
        Op::Clear(i) => slots[i] = None,
        Op::Add(i, n) => {
            if let Some((a, b)) = &mut slots[i] {
                *a = a.wrapping_add(n);
                if let Some(b) = b {
                    *b = b.wrapping_add(n);
                }
            }
        }
        Op::Swap(i, j) => slots.swap(i, j),
        Op::Move(i, j) => slots[j] = slots[i].take(),
        Op::MoveInside(i, j) => {
            let taken = slots[i].take();
            if i != j {
                slots[j] = taken;
            }
        }
        Op::Push(value, count) => vec.extend(std::iter::repeat_n(value, count)),
        Op::Truncate(len) => vec.truncate(len),
    }
}

fn state(heap: &Heap<Root>) -> Model {
    let guard = heap.read();
    let slots = std::array::from_fn(|i| {
        let slot = guard.0[i].as_deref();
        slot.map(|(a, b)| (*a, b.as_deref().copied()))
    });
    (slots, guard.1.to_vec())
}

/// Blocks that a state takes: the root's, one for each box, one for the vector.
fn blocks((slots, _): &Model) -> u64 {
    let boxes = slots
        .iter()
        .flatten()
        .map(|(_, b)| 1 + u64::from(b.is_some()));
    1 + boxes.sum::<u64>()
}

fn options() -> bartender::Options<Root> {
    let options = Heap::<Root>::options();
    options
        .max_size(8 << 20)
        .log_size(128 << 10)
        .background(false)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_commits_stays_and_what_aborts_was_never_there(
        transactions in prop::collection::vec(
            (prop::collection::vec(op(), 1..8), 0..4u8, prop::bool::weighted(0.1)), 1..30),
    ) {
        let place = places::place();
        let path = place.region();
        let mut heap = options().open(path).unwrap();
        let mut model = Model::default();
        for (ops, end, reopen) in transactions {
            let mut next = model.clone();
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                heap.update(|mut root| {
                    for op in &ops {
                        apply(&mut root, op)?;
                        apply_to_model(&mut next, op);
                    }
                    match end {
                        0 => Err(Error::abort("on purpose")),
                        1 => std::panic::resume_unwind(Box::new("on purpose")),
                        _ => Ok(()),
                    }
                })
            }));
            match done {
                Ok(Ok(())) => model = next,
                Ok(Err(Error::Aborted(_))) | Err(_) => {}
                Ok(Err(error)) => prop_assert!(false, "{error}"),
            }
            prop_assert_eq!(&state(&heap), &model);
            if reopen {
                heap.close().unwrap();
                heap = options().open(path).unwrap();
                prop_assert_eq!(&state(&heap), &model);
            }
            heap.check().unwrap();
            let vector = u64::from(heap.read().1.capacity() != 0);
            prop_assert_eq!(heap.stats().live_blocks, blocks(&model) + vector);
        }
    }
}

/// Runs transactions on the simulated medium and recovers every image that a crash can leave, within a bound: each must
/// hold a state at least as new as the last acknowledged one, whole, without a leak.
fn explore(kind: SimKind, durability: Durability, points: usize) -> u64 {
    let memory = SimMemory::new(8 << 20);
    let medium = SimMedium::new(kind, Default::default(), &memory);
    let open = |medium| {
        let mut region = bartender_pm::Options::new();
        region
            .max_size(8 << 20)
            .log_size(1 << 20)
            .lanes(2)
            .background(false)
            .durability(durability);
        options()
            .durability(durability)
            .open_region(region.open_on(medium)?, Default::default)
    };
    let mut states = vec![Model::default()];
    {
        let heap = open(medium.clone()).unwrap();
        let mut model = Model::default();
        let mut random = 7u64;
        let mut draw = |n: u64| {
            random = random
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (random >> 33) % n
        };
        for k in 0..40 {
            let ops: Vec<Op> = (0..1 + draw(3))
                .map(|_| {
                    let (i, j) = (draw(6) as usize, draw(6) as usize);
                    match draw(8) {
                        0 | 1 => Op::Set(i, k, (j % 2 == 0).then_some(k)),
                        2 => Op::Add(i, k),
                        3 => Op::Swap(i, j),
                        4 => Op::Move(i, j),
                        // Once far beyond what is logged byte for byte.
                        5 => Op::Push(k as u32, if draw(8) == 0 { 40_000 } else { 30 }),
                        6 => Op::MoveInside(i, j),
                        _ => Op::Truncate(draw(300) as usize),
                    }
                })
                .collect();
            heap.update(|mut root| ops.iter().try_for_each(|op| apply(&mut root, op)))
                .unwrap();
            ops.iter().for_each(|op| apply_to_model(&mut model, op));
            states.push(model.clone());
            medium.note(k + 1);
            if k % 16 == 15 {
                heap.checkpoint().unwrap();
            }
        }
        medium.stop_recording();
    }
    let trace = medium.trace();
    drop(medium);
    let bound = Bound {
        images_per_point: 48,
        points,
        ..Bound::default()
    };
    let explored = trace.explore(bound, |crash| {
        let medium = SimMedium::new(kind, crash.image, &memory);
        let heap = open(medium).map_err(|error| error.to_string())?;
        let found = state(&heap);
        let acknowledged = match durability {
            Durability::Immediate => crash.notes.last().copied().unwrap_or(0) as usize,
            _ => 0,
        };
        if !states[acknowledged..]
            .iter()
            .take(crash.notes.len() + 2)
            .any(|state| *state == found)
        {
            return Err(format!(
                "not a committed state after {acknowledged}: {found:?}"
            ));
        }
        heap.check().map_err(|error| error.to_string())?;
        let vector = u64::from(heap.read().1.capacity() != 0);
        let live = heap.stats().live_blocks;
        if live != blocks(&found) + vector {
            return Err(format!("{live} blocks live"));
        }
        // And it goes on.
        heap.update(|mut root| apply(&mut root, &Op::Push(1, 50)))
            .map_err(|error| error.to_string())?;
        heap.check().map_err(|error| error.to_string())?;
        Ok::<_, String>(())
    });
    explored.unwrap_or_else(|error| panic!("{kind:?}, {durability:?}: {error}"))
}

#[test]
fn every_crash_leaves_a_committed_state() {
    let mut images = 0;
    images += explore(SimKind::Dax, Durability::Immediate, usize::MAX);
    images += explore(SimKind::Disk, Durability::Immediate, usize::MAX);
    images += explore(SimKind::Disk, Durability::Eventual, usize::MAX);
    println!("{images} images explored");
    assert!(images > 1000);
}
