//! The state beside a naive model: a list of all that ever happened, from which every answer is worked out anew.

use super::super::check_request;
use super::*;
use proptest::prelude::*;

const KEYS: [&str; 5] = ["a", "a/b", "a/c", "b", "ab"];

#[derive(Debug, Clone)]
enum Step {
    /// Comparisons and changes; leases and revisions by how many there are.
    Transact(Vec<(usize, u8, u8)>, Vec<(usize, Option<(u8, u8)>)>),
    Grant(u64),
    Beat(u8),
    Revoke(u8),
    Wait(u64),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let compare = (0..KEYS.len(), 0..3u8, 0..6u8);
    let change = (0..KEYS.len(), proptest::option::of((0..6u8, 0..5u8)));
    let step = prop_oneof![
        8 => (proptest::collection::vec(compare, 0..2), proptest::collection::vec(change, 0..4))
            .prop_map(|(compares, changes)| Step::Transact(compares, changes)),
        2 => (1..2000u64).prop_map(Step::Grant),
        3 => (0..5u8).prop_map(Step::Beat),
        1 => (0..5u8).prop_map(Step::Revoke),
        4 => (0..1000u64).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..60)
}

/// A revision, a key, and its value and lease after it.
type Event = (u64, &'static str, Option<(u8, u64)>);

/// All that happened.
#[derive(Default)]
struct Model {
    events: Vec<Event>,
    revision: u64,
    /// Milliseconds: ttl, and when the last beat was; over if it has none.
    leases: Vec<(u64, Option<u64>)>,
}

impl Model {
    fn get(&self, key: &str) -> Option<(u64, u8, u64)> {
        let last = self.events.iter().rev().find(|(_, k, _)| *k == key)?;
        last.2.map(|(value, lease)| (last.0, value, lease))
    }

    fn end(&mut self, lease: usize) {
        if self.leases[lease].1.take().is_none() {
            return;
        }
        let mut keys = KEYS.to_vec();
        keys.sort_unstable();
        keys.retain(|key| self.get(key).is_some_and(|k| k.2 == lease as u64 + 1));
        self.revision += u64::from(!keys.is_empty());
        for key in keys {
            self.events.push((self.revision, key, None));
        }
    }

    fn pass(&mut self, now: u64) {
        let mut due: Vec<_> = (0..self.leases.len())
            .filter_map(|i| Some((self.leases[i].1? + self.leases[i].0, i)))
            .filter(|(end, _)| *end <= now)
            .collect();
        due.sort_unstable();
        due.into_iter().for_each(|(_, i)| self.end(i));
    }

    fn alive(&self, lease: u64) -> bool {
        let i = (lease as usize).wrapping_sub(1);
        self.leases.get(i).is_some_and(|lease| lease.1.is_some())
    }

    fn watch(&self, prefix: &str, after: u64) -> Option<Changes> {
        let new = |e: &&Event| e.0 > after && e.1.starts_with(prefix);
        let revision = self.events.iter().find(new)?.0;
        let mut keys: Vec<_> = self
            .events
            .iter()
            .filter(new)
            .filter(|e| e.0 == revision)
            .map(|e| {
                (
                    e.1.to_owned(),
                    e.2.map(|(value, _)| Bytes::from(vec![value])),
                )
            })
            .collect();
        keys.sort();
        Some(Changes { revision, keys })
    }
}

struct Pair {
    state: State,
    model: Model,
    start: Instant,
    now: u64,
}

impl Pair {
    fn instant(&self) -> Instant {
        self.start + Duration::from_millis(self.now)
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Transact(compares, changes) => self.transact(compares, changes),
            Step::Grant(ttl) => {
                let (id, delta) = self.state.plan_grant(Duration::from_millis(ttl));
                self.state.apply(delta, self.instant());
                self.model.leases.push((ttl, Some(self.now)));
                assert_eq!(id.0, self.model.leases.len() as u64);
            }
            Step::Beat(lease) => {
                let alive = self.model.alive(lease.into());
                let beaten = self.state.beat(LeaseId(lease.into()), self.instant());
                assert_eq!(beaten.is_ok(), alive);
                if alive {
                    self.model.leases[usize::from(lease) - 1].1 = Some(self.now);
                }
            }
            Step::Revoke(lease) => {
                let delta = self.state.plan_end(LeaseId(lease.into()));
                assert_eq!(delta.is_some(), self.model.alive(lease.into()));
                if let Some(delta) = delta {
                    self.state.apply(delta, self.instant());
                    self.model.end(usize::from(lease) - 1);
                }
            }
            Step::Wait(millis) => {
                self.now += millis;
                while let Some((end, id)) = self.state.next_end()
                    && end <= self.instant()
                {
                    let delta = self.state.plan_end(id).unwrap();
                    self.state.apply(delta, self.instant());
                }
                self.model.pass(self.now);
            }
            Step::Restart => {
                let now = self.instant();
                let old = &self.state;
                let leases = old
                    .leases
                    .iter()
                    .map(|(id, term)| (*id, term.ttl))
                    .collect();
                let keys = old.keys.clone();
                self.state = State::new(old.revision, old.last_lease, keys, leases, now);
                for lease in &mut self.model.leases {
                    lease.1 = lease.1.and(Some(self.now));
                }
            }
        }
    }

    fn transact(
        &mut self,
        compares: Vec<(usize, u8, u8)>,
        changes: Vec<(usize, Option<(u8, u8)>)>,
    ) {
        let mut real = Vec::new();
        let mut hold = true;
        for (key, kind, n) in compares {
            let key = KEYS[key];
            let held = self.model.get(key);
            let (compare, holds) = match kind {
                0 => (Compare::Absent(key.into()), held.is_none()),
                1 => {
                    let value = Bytes::from(vec![n]);
                    let holds = held.is_some_and(|held| held.1 == n);
                    (Compare::Value(key.into(), value), holds)
                }
                _ => {
                    let revision = self.model.revision.saturating_sub(n.into());
                    let holds = held.is_some_and(|held| held.0 == revision);
                    (Compare::Revision(key.into(), revision), holds)
                }
            };
            real.push(compare);
            hold &= holds;
        }
        let to_change = |(key, put): &(usize, Option<(u8, u8)>)| match *put {
            None => Change::delete(KEYS[*key]),
            Some((value, 0)) => Change::put(KEYS[*key], vec![value]),
            Some((value, lease)) => {
                Change::put_bound(KEYS[*key], vec![value], LeaseId(lease.into()))
            }
        };
        let wanted: Vec<_> = changes.iter().map(to_change).collect();
        if check_request(&real, &wanted).is_err() {
            return;
        }
        let unbound = |(_, put): &(usize, Option<(u8, u8)>)| {
            put.is_some_and(|(_, lease)| lease != 0 && !self.model.alive(lease.into()))
        };
        match self.state.plan(&real, wanted) {
            Err(Error::LeaseEnded { .. }) => assert!(hold && changes.iter().any(unbound)),
            Err(other) => panic!("{other}"),
            Ok(None) => assert!(!hold),
            Ok(Some(delta)) => {
                assert!(hold && !changes.iter().any(unbound));
                let model = &mut self.model;
                let next = model.revision + 1;
                for (key, put) in changes {
                    let key = KEYS[key];
                    if put.is_some() || model.get(key).is_some() {
                        let kept = put.map(|(value, lease)| (value, lease.into()));
                        model.events.push((next, key, kept));
                        model.revision = next;
                    }
                }
                assert_eq!(delta.revision, model.revision);
                let now = self.instant();
                self.state.apply(delta, now);
            }
        }
    }

    fn compare(&self) {
        for prefix in ["", "a", "a/", "b", "c"] {
            let read = self.state.read(prefix);
            assert_eq!(read.revision, self.model.revision);
            let mut keys: Vec<_> = KEYS.iter().filter(|k| k.starts_with(prefix)).collect();
            keys.sort_unstable();
            let entry = |key: &&'static str| {
                let (revision, value, lease) = self.model.get(key)?;
                Some(Entry {
                    key: (*key).to_owned(),
                    value: Bytes::from(vec![value]),
                    revision,
                    lease: (lease != 0).then_some(LeaseId(lease)),
                })
            };
            let model: Vec<_> = keys.into_iter().filter_map(entry).collect();
            assert_eq!(read.entries, model);
            for after in [0, self.model.revision / 2, self.model.revision] {
                match self.state.changes(prefix, after) {
                    Err(_) => assert!(after < self.state.forgotten),
                    Ok((found, looked)) => {
                        assert_eq!(found, self.model.watch(prefix, after));
                        let upto = found.map_or(self.model.revision, |c| c.revision);
                        assert_eq!(looked, upto);
                    }
                }
            }
        }
        // The invariant of the state.
        for (id, term) in &self.state.leases {
            let bound = |(_, kept): &(&String, &Kept)| kept.lease == Some(*id);
            let keys = self.state.keys.iter().filter(bound);
            assert!(keys.map(|(key, _)| key).eq(&term.keys));
        }
    }
}

fn run(steps: Vec<Step>) {
    let start = Instant::now();
    let (keys, leases) = (BTreeMap::new(), BTreeMap::new());
    let mut pair = Pair {
        state: State::new(0, 0, keys, leases, start),
        model: Model::default(),
        start,
        now: 0,
    };
    for step in steps {
        pair.step(step);
        pair.compare();
    }
}

proptest! {
    #[test]
    fn the_state_answers_as_the_list_of_all_events(steps in steps()) {
        run(steps);
    }
}

/// Whether some of the same runs fail with a rule switched off.
fn noticed(rule: &'static str) -> bool {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    (0..500).any(|_| {
        let case = steps().new_tree(&mut runner).unwrap().current();
        mutant::with(rule, || std::panic::catch_unwind(|| run(case)).is_err())
    })
}

#[test]
fn rules_that_are_switched_off_are_noticed() {
    let rules = [
        "transaction_without_compares",
        "old_lease_keeps_key",
        "beat_that_does_not_count",
    ];
    let missed: Vec<_> = rules.into_iter().filter(|rule| !noticed(rule)).collect();
    let plain = noticed("no such rule");
    assert!(!plain);
    assert!(missed.is_empty() || !mutant::ON, "{missed:?}");
}
