//! Histories of operations on registers and accounts, and whether they are linearizable.
//!
//! Every register is an object of its own; all accounts together are one. What was called and never answered, or answered with an
//! error, may have happened at any time since, or never: it is given an answer behind everything else, where it changes
//! nothing that anybody saw. The search is `todc-utils`' (Wing and Gong's, with Lowe's memory of what was tried), which the tests
//! below compare with trying everything.

use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History as Actions};
use todc_utils::specifications::Specification;

pub(crate) const REGISTERS: usize = 4;
pub(crate) const ACCOUNTS: usize = 4;
/// What is in each account in the beginning.
pub(crate) const FIRST: u64 = 100;

/// What is done to a register, and what came of it; `None`: nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Register {
    Read(Option<u64>),
    Write(u64),
    Swap {
        from: u64,
        to: u64,
        done: Option<bool>,
    },
}

impl Specification for Register {
    type State = u64;
    type Operation = Register;

    fn init() -> u64 {
        0
    }

    fn apply(operation: &Register, &state: &u64) -> (bool, u64) {
        match *operation {
            Register::Read(value) => (value.is_none_or(|value| value == state), state),
            Register::Write(value) => (true, value),
            Register::Swap { from, to, done } => {
                let hit = state == from;
                let fits = done.is_none_or(|done| done == hit);
                (fits, if hit { to } else { state })
            }
        }
    }
}

pub(crate) type Balances = [u64; ACCOUNTS];

/// What is done to the accounts, and what came of it; `None`: nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bank {
    Look(Option<Balances>),
    Transfer {
        from: usize,
        to: usize,
        amount: u64,
        done: Option<bool>,
    },
}

impl Bank {
    /// What a transfer leaves, if there is as much as it takes.
    pub(crate) fn moved(
        mut all: Balances,
        from: usize,
        to: usize,
        amount: u64,
    ) -> Option<Balances> {
        all[from] = all[from].checked_sub(amount)?;
        all[to] += amount;
        Some(all)
    }
}

impl Specification for Bank {
    type State = Balances;
    type Operation = Bank;

    fn init() -> Balances {
        [FIRST; ACCOUNTS]
    }

    fn apply(operation: &Bank, &state: &Balances) -> (bool, Balances) {
        match *operation {
            Bank::Look(all) => (all.is_none_or(|all| all == state), state),
            Bank::Transfer {
                from,
                to,
                amount,
                done,
            } => {
                let moved = Bank::moved(state, from, to, amount);
                let fits = done.is_none_or(|done| done == moved.is_some());
                (fits, moved.unwrap_or(state))
            }
        }
    }
}

/// Operations on one object in the order of their calls, with the instants of call and answer.
#[derive(Debug, Clone)]
pub(crate) struct Object<S: Specification> {
    operations: Vec<(S::Operation, usize, Option<usize>)>,
    now: usize,
}

impl<S: Specification> Default for Object<S> {
    fn default() -> Self {
        Object {
            operations: Vec::new(),
            now: 0,
        }
    }
}

impl<S: Specification> Object<S>
where
    S::Operation: Clone,
{
    /// Something is called that will be `unknown` until it is answered. Give the number to [`answer`](Self::answer).
    pub(crate) fn call(&mut self, unknown: S::Operation) -> usize {
        self.now += 1;
        self.operations.push((unknown, self.now, None));
        self.operations.len() - 1
    }

    pub(crate) fn answer(&mut self, number: usize, known: S::Operation) {
        self.now += 1;
        let (operation, _, answered) = &mut self.operations[number];
        (*operation, *answered) = (known, Some(self.now));
    }

    pub(crate) fn answered(&self) -> usize {
        self.operations.iter().filter(|o| o.2.is_some()).count()
    }

    /// Whether so much was never answered that a search may have to try more of its subsets than there is time for.
    fn is_too_much(&self) -> bool {
        self.operations.len() - self.answered() > 8
    }

    pub(crate) fn is_linearizable(&self) -> bool {
        let mut actions = Vec::new();
        for (i, (operation, called, answered)) in self.operations.iter().enumerate() {
            actions.push((*called, i, Action::Call(operation.clone())));
            let answered = answered.unwrap_or(usize::MAX);
            actions.push((answered, i, Action::Response(operation.clone())));
        }
        actions.sort_by_key(|&(when, i, _)| (when, i));
        let actions: Vec<_> = actions.into_iter().map(|(_, i, a)| (i, a)).collect();
        actions.is_empty() || WGLChecker::<S>::is_linearizable(Actions::from_actions(actions))
    }
}

/// All objects.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) registers: [Object<Register>; REGISTERS],
    pub(crate) bank: Object<Bank>,
    values: u64,
    /// Nothing is added any more but a last look.
    pub(crate) closed: bool,
}

impl Object<Register> {
    /// Without what was never answered and whose value nobody saw. Each value is written once, and nobody was told only that a
    /// swap failed: so this is linearizable if and only if the whole is, and no longer a search through all their subsets.
    fn seen(&self) -> Self {
        let mut kept = self.clone();
        loop {
            let sees = |operation: &Register, value| match *operation {
                Register::Read(seen) => seen == Some(value),
                Register::Swap { from, .. } => from == value,
                Register::Write(_) => false,
            };
            let operations = kept.operations.clone();
            kept.operations.retain(|(operation, _, answered)| {
                let (Register::Write(value) | Register::Swap { to: value, .. }) = *operation else {
                    return answered.is_some();
                };
                answered.is_some() || operations.iter().any(|other| sees(&other.0, value))
            });
            if kept.operations.len() == operations.len() {
                return kept;
            }
        }
    }
}

impl History {
    /// One that nobody has written yet.
    pub(crate) fn value(&mut self) -> u64 {
        self.values += 1;
        self.values
    }

    pub(crate) fn answered(&self) -> u64 {
        let registers = self.registers.iter().map(Object::answered);
        (registers.sum::<usize>() + self.bank.answered()) as u64
    }

    /// How many objects could not be searched.
    pub(crate) fn check(&self) -> Result<u64, String> {
        let mut unsearched = 0;
        for (i, register) in self.registers.iter().enumerate() {
            let seen = register.seen();
            if seen.is_too_much() {
                unsearched += 1;
            } else if !seen.is_linearizable() {
                return Err(format!("register {i} is not linearizable: {register:?}"));
            }
        }
        let bank = &self.bank;
        if bank.is_too_much() {
            unsearched += 1;
        } else if !bank.is_linearizable() {
            return Err(format!("the accounts are not linearizable: {bank:?}"));
        }
        Ok(unsearched)
    }
}

#[cfg(test)]
mod tests {
    use super::Register::{Swap, Write};
    use super::*;
    use bartender_pm::medium::sim::Rng;

    /// Operations with the instants of call and answer.
    type Listed<'l> = &'l [(Register, usize, usize)];

    fn read(value: u64) -> Register {
        Register::Read(Some(value))
    }

    /// From operations with the instants of call and answer (0: none).
    fn object<S: Specification>(operations: &[(S::Operation, usize, usize)]) -> Object<S>
    where
        S::Operation: Clone,
    {
        let operations = operations.iter().cloned();
        let operations = operations.map(|(o, from, to)| (o, from, (to != 0).then_some(to)));
        Object {
            operations: operations.collect(),
            now: 0,
        }
    }

    /// Whether some order of all that was answered and some of the rest explains every answer: tries them all.
    fn is_explained<S: Specification>(
        object: &Object<S>,
        state: &S::State,
        done: &mut [bool],
    ) -> bool {
        let operations = &object.operations;
        let missing = |i: &usize| !done[*i];
        let open: Vec<usize> = (0..operations.len()).filter(missing).collect();
        let ends = |i: usize| operations[i].2.unwrap_or(usize::MAX);
        if open.iter().all(|&i| ends(i) == usize::MAX) {
            return true;
        }
        let first = open.iter().map(|&i| ends(i)).min().expect("there is one");
        open.into_iter().any(|i| {
            let (fits, next) = S::apply(&operations[i].0, state);
            if operations[i].1 > first || !fits {
                return false;
            }
            done[i] = true;
            let explained = is_explained(object, &next, done);
            done[i] = false;
            explained
        })
    }

    #[test]
    fn known_good_histories_pass() {
        let swap = |from, to, done| Swap { from, to, done };
        let good: [Listed<'_>; 7] = [
            &[],
            &[(Write(1), 1, 2), (read(1), 3, 4)],
            // At the same time: either.
            &[(Write(1), 1, 4), (read(0), 2, 3), (read(1), 5, 6)],
            // Never answered: seen, or not, or late.
            &[(Write(1), 1, 0), (read(0), 2, 3), (read(1), 4, 5)],
            &[(Write(1), 1, 0), (Write(2), 2, 3), (read(2), 4, 5)],
            &[(swap(0, 1, None), 1, 0), (swap(0, 2, Some(true)), 2, 3)],
            &[(swap(5, 6, Some(false)), 1, 2), (read(0), 3, 4)],
        ];
        for history in good {
            assert!(object::<Register>(history).is_linearizable(), "{history:?}");
        }
    }

    #[test]
    fn known_bad_histories_are_noticed() {
        let swap = |from, to| Swap {
            from,
            to,
            done: Some(true),
        };
        let bad: [(&str, Listed<'_>); 7] = [
            ("a stale read", &[(Write(1), 1, 2), (read(0), 3, 4)]),
            (
                "a lost write",
                &[(Write(1), 1, 2), (Write(2), 3, 4), (read(1), 5, 6)],
            ),
            ("a lost update", &[(swap(0, 1), 1, 3), (swap(0, 2), 2, 4)]),
            // It was seen and never answered: it happened, and nothing undid it.
            (
                "one that vanished",
                &[(Write(1), 1, 0), (read(1), 2, 3), (read(0), 4, 5)],
            ),
            ("nobody's value", &[(Write(1), 1, 2), (read(7), 3, 4)]),
            ("one before it began", &[(read(1), 1, 2), (Write(1), 3, 0)]),
            // Two primaries, each of which has its own.
            (
                "a split brain",
                &[
                    (Write(1), 1, 4),
                    (Write(2), 2, 3),
                    (read(1), 5, 9),
                    (read(2), 6, 7),
                    (read(1), 8, 10),
                    (read(2), 11, 12),
                ],
            ),
        ];
        for (what, history) in bad {
            assert!(!object::<Register>(history).is_linearizable(), "{what}");
        }
        let transfer = Bank::Transfer {
            from: 0,
            to: 1,
            amount: 30,
            done: Some(true),
        };
        let half = Bank::Look(Some([70, 100, 100, 100]));
        let whole = Bank::Look(Some([70, 130, 100, 100]));
        assert!(object::<Bank>(&[(transfer, 1, 2), (whole, 3, 4)]).is_linearizable());
        assert!(!object::<Bank>(&[(transfer, 1, 0), (half, 2, 3)]).is_linearizable());
    }

    #[test]
    fn it_agrees_with_trying_everything() {
        let mut rng = Rng(1);
        let (mut good, mut bad) = (0, 0);
        for _ in 0..4000 {
            let count = 1 + rng.below(6) as usize;
            let mut instants: Vec<usize> = (1..=count * 2).collect();
            for i in (1..instants.len()).rev() {
                instants.swap(i, rng.below(i as u64 + 1) as usize);
            }
            let mut one = |pair: &[usize]| {
                let known = rng.below(4) != 0;
                let operation = match rng.below(4) {
                    0 | 1 if known => read(rng.below(3)),
                    2 => Swap {
                        from: rng.below(3),
                        to: rng.below(3),
                        done: known.then(|| rng.below(2) == 0),
                    },
                    _ => Write(rng.below(3)),
                };
                let (from, to) = (pair[0].min(pair[1]), pair[0].max(pair[1]));
                (operation, from, if known { to } else { 0 })
            };
            let mut operations: Vec<_> = instants.chunks(2).map(&mut one).collect();
            operations.sort_by_key(|operation| operation.1);
            let history = object::<Register>(&operations);
            let explained = is_explained(&history, &0, &mut vec![false; count]);
            assert_eq!(history.is_linearizable(), explained, "{operations:?}");
            *if explained { &mut good } else { &mut bad } += 1;
        }
        assert!(good > 500 && bad > 500, "{good} good, {bad} bad");
    }
}
