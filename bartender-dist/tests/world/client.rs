//! What users of the machines do, all at the same time, wherever a primary serves; and what they were told.

use super::disk::MAX_SIZE;
use super::history::{ACCOUNTS, Balances, Bank, FIRST, History, REGISTERS, Register};
use super::ledger::{Ledger, WORDS, Words};
use super::ms;
use bartender_dist::{Error, Result, Serving};
use bartender_net::sim::Network;
use bartender_pm::{Durability, Record, Region, mutant};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::time::sleep;

/// The last words, each of which needs a longer home.
pub(crate) const FAR: usize = 3;

/// Words lie three to a page.
pub(crate) fn place(i: usize) -> u64 {
    match (WORDS - i) as u64 {
        behind @ 1..=3 => MAX_SIZE - behind * (2 << 20),
        _ => 4096 + (i as u64 / 3) * 4096 + (i as u64 % 3) * 520,
    }
}

/// Registers and accounts lie behind the words.
fn register(i: usize) -> u64 {
    (256 << 10) + i as u64 * 520
}

/// What an account has above what was in it in the beginning.
fn account(i: usize) -> u64 {
    (260 << 10) + i as u64 * 3000
}

fn load(region: &Region, place: u64) -> u64 {
    if place + 8 > region.size() {
        return 0;
    }
    // SAFETY: inside the home; one thread.
    unsafe { region.base().add(place as usize).cast::<u64>().read() }
}

fn change(region: &Region, record: &mut Record, place: u64, value: u64) {
    assert!(place + 8 <= region.size(), "the home was extended");
    // SAFETY: inside the home; one thread.
    unsafe {
        let at = region.base().add(place as usize);
        at.cast::<u64>().write(value);
    }
    record.change(place, &value.to_le_bytes());
}

/// One transaction.
fn put(region: &Region, words: &[(u64, u64)]) -> Result<()> {
    let mut writer = region.writer()?;
    let mut record = Record::new();
    for &(place, value) in words {
        change(region, &mut record, place, value);
    }
    writer.append(&mut record, Durability::Eventual)?;
    Ok(())
}

pub(crate) fn words_of(region: &Region) -> Words {
    (0..WORDS).map(|i| load(region, place(i))).collect()
}

/// What a last look at everything finds.
pub(crate) fn look(region: &Region, history: &mut History) {
    for (i, object) in history.registers.iter_mut().enumerate() {
        let number = object.call(Register::Read(None));
        object.answer(number, Register::Read(Some(load(region, register(i)))));
    }
    let number = history.bank.call(Bank::Look(None));
    (history.bank).answer(number, Bank::Look(Some(balances(region))));
}

fn balances(region: &Region) -> Balances {
    std::array::from_fn(|i| load(region, account(i)).wrapping_add(FIRST))
}

/// One of a machine's users.
pub(crate) struct Client {
    pub(crate) network: Network,
    pub(crate) serving: Arc<Mutex<Option<Arc<Serving>>>>,
    pub(crate) stopped: Arc<AtomicBool>,
    pub(crate) ledger: Arc<Mutex<Ledger>>,
    /// Closed when the cluster comes to rest: it is to be searched.
    pub(crate) history: Arc<Mutex<History>>,
    /// The lock of everything in the region.
    pub(crate) lock: Arc<tokio::sync::Mutex<()>>,
    pub(crate) stop: Arc<AtomicBool>,
}

impl Client {
    pub(crate) async fn work(self) {
        loop {
            sleep(ms(self.network.draw(1..=60))).await;
            if self.stop.load(Ordering::Relaxed) || self.stopped.load(Ordering::Relaxed) {
                continue;
            }
            let Some(serving) = self.serving.lock().expect("no panic").clone() else {
                continue;
            };
            let most = if self.history.lock().expect("no panic").closed {
                3
            } else {
                7
            };
            let _ = match self.network.draw(0..=most) {
                0 => self.read(&serving).await,
                1..=3 => self.write(&serving).await,
                4..=6 => self.register(&serving).await,
                _ => self.accounts(&serving).await,
            };
        }
    }

    /// A machine that stands still does nothing.
    async fn turn(&self) {
        while self.stopped.load(Ordering::Relaxed) {
            sleep(ms(5)).await;
        }
    }

    /// What is read next is the latest, if the lock is held.
    async fn settled(&self, serving: &Serving) -> Result<()> {
        serving.flush().await?;
        // Whoever reads takes a while, and may stand still meanwhile.
        sleep(ms(self.network.draw(0..=8))).await;
        self.turn().await;
        if mutant::is("stale_reads") {
            return Ok(());
        }
        Ok(serving.region().check_current()?)
    }

    /// Sees to it that the log takes a transaction.
    async fn room(&self, serving: &Serving) -> Result<()> {
        let region = serving.region();
        if region.free() < 8 << 10 {
            serving.flush().await?;
            region.checkpoint()?;
            if region.free() < 8 << 10 {
                // Backups are behind.
                region.ask_for_room();
                return Err(Error::Left);
            }
        }
        Ok(())
    }

    /// What was appended is answered.
    async fn durable(&self, serving: &Serving) -> Result<()> {
        serving.flush().await?;
        self.turn().await;
        Ok(())
    }

    async fn register(&self, serving: &Serving) -> Result<()> {
        let i = self.network.draw(0..=REGISTERS as u64 - 1) as usize;
        let history = || self.history.lock().expect("no panic");
        let value = history().value();
        let call = |operation| history().registers[i].call(operation);
        let answer = |number, operation| history().registers[i].answer(number, operation);
        let region = serving.region();
        match self.network.draw(0..=3) {
            0 | 1 => {
                let number = call(Register::Read(None));
                let held = self.lock.lock().await;
                self.settled(serving).await?;
                answer(number, Register::Read(Some(load(region, register(i)))));
                drop(held);
            }
            2 => {
                let number = call(Register::Write(value));
                let held = self.lock.lock().await;
                self.turn().await;
                self.room(serving).await?;
                put(region, &[(register(i), value)])?;
                drop(held);
                self.durable(serving).await?;
                answer(number, Register::Write(value));
            }
            _ => {
                let held = self.lock.lock().await;
                // Somebody who has seen it, perhaps a while ago.
                let from = load(region, register(i)).saturating_sub(self.network.draw(0..=4) / 4);
                drop(held);
                let swap = |done| Register::Swap {
                    from,
                    to: value,
                    done,
                };
                let number = call(swap(None));
                let held = self.lock.lock().await;
                self.turn().await;
                self.room(serving).await?;
                let there = load(region, register(i));
                if there != from {
                    self.settled(serving).await?;
                    answer(number, Register::Read(Some(there)));
                    return Ok(());
                }
                put(region, &[(register(i), value)])?;
                drop(held);
                self.durable(serving).await?;
                answer(number, swap(Some(true)));
            }
        }
        Ok(())
    }

    async fn accounts(&self, serving: &Serving) -> Result<()> {
        let history = || self.history.lock().expect("no panic");
        let region = serving.region();
        if self.network.draw(0..=2) == 0 {
            let number = history().bank.call(Bank::Look(None));
            let _held = self.lock.lock().await;
            self.settled(serving).await?;
            history()
                .bank
                .answer(number, Bank::Look(Some(balances(region))));
            return Ok(());
        }
        let from = self.network.draw(0..=ACCOUNTS as u64 - 1) as usize;
        let to = (from + self.network.draw(1..=ACCOUNTS as u64 - 1) as usize) % ACCOUNTS;
        let amount = self.network.draw(1..=80);
        let transfer = |done| Bank::Transfer {
            from,
            to,
            amount,
            done,
        };
        let number = history().bank.call(transfer(None));
        let held = self.lock.lock().await;
        self.turn().await;
        self.room(serving).await?;
        let there = balances(region);
        let Some(after) = Bank::moved(there, from, to, amount) else {
            self.settled(serving).await?;
            history().bank.answer(number, Bank::Look(Some(there)));
            return Ok(());
        };
        put(
            region,
            &[from, to].map(|i| (account(i), after[i].wrapping_sub(FIRST))),
        )?;
        drop(held);
        self.durable(serving).await?;
        history().bank.answer(number, transfer(Some(true)));
        Ok(())
    }

    async fn read(&self, serving: &Serving) -> Result<()> {
        let before = self.ledger.lock().expect("no panic").now();
        let _held = self.lock.lock().await;
        self.settled(serving).await?;
        let words = words_of(serving.region());
        self.ledger.lock().expect("no panic").read(&words, before);
        Ok(())
    }

    async fn write(&self, serving: &Serving) -> Result<()> {
        let before = self.ledger.lock().expect("no panic").now();
        let held = self.lock.lock().await;
        self.turn().await;
        let region = serving.region();
        self.room(serving).await?;
        let number = self.append(region).inspect_err(|error| {
            if let Error::Region(bartender_pm::Error::Io { source, .. }) = error
                && source.kind() == std::io::ErrorKind::StorageFull
            {
                self.ledger.lock().expect("no panic").refused += 1;
            }
        })?;
        drop(held);
        self.durable(serving).await?;
        self.ledger
            .lock()
            .expect("no panic")
            .answered(number, before);
        Ok(())
    }

    fn append(&self, region: &Region) -> Result<u64> {
        let mut changed = vec![0, 1];
        for _ in 0..self.network.draw(0..=12) {
            changed.push(self.network.draw(2..=(WORDS - FAR) as u64 - 1) as usize);
        }
        if self.network.draw(0..=15) == 0 {
            let far = WORDS - 1 - self.network.draw(0..=FAR as u64 - 1) as usize;
            region.extend(place(far) + 8)?;
            changed.push(far);
        }
        let mut writer = region.writer()?;
        let mut words = words_of(region);
        let mut ledger = self.ledger.lock().expect("no panic");
        let (number, before) = (ledger.draw(), words[0]);
        changed.iter().for_each(|&i| words[i] = number);
        words[1] = before;
        let mut record = Record::new();
        for &i in &changed {
            change(region, &mut record, place(i), words[i]);
        }
        ledger.begin(number, before, words);
        writer.append(&mut record, Durability::Eventual)?;
        Ok(number)
    }
}
