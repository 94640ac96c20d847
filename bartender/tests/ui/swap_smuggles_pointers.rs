//! `mem::swap` and `mem::take` would move persistent pointers out of their region.

use bartender::{Mut, PString, PVec, Persist};
use std::mem;

#[derive(Persist, Default)]
#[repr(C)]
struct Account {
    owner: PString,
    cents: u64,
}

fn strings(mut a: Mut<'_, PString>, mut b: Mut<'_, PString>) {
    mem::swap(&mut *a, &mut *b);
}

fn with_an_owned_one(mut stored: Mut<'_, PVec<u8>>) {
    let mut owned = PVec::new();
    mem::swap(&mut *stored, &mut owned);
}

fn a_struct(mut account: Mut<'_, Account>) -> Account {
    mem::take(&mut account)
}

fn a_field(mut account: Mut<'_, Account>) {
    account.owner = PString::new();
}

fn an_element(mut accounts: Mut<'_, PVec<Account>>) {
    accounts[0].cents += 1;
}

fn a_method_of_the_owned_one(mut name: Mut<'_, PString>) {
    name.as_mut_str();
}

fn main() {}
