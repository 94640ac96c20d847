//! A projection is no way around privacy.

mod bank {
    use bartender::{PString, Persist};

    #[derive(Persist)]
    #[repr(C)]
    pub struct Account {
        pub owner: PString,
        cents: u64,
    }
}

use bank::{Account, AccountFieldsMut};
use bartender::Mut;

fn rob(mut account: Mut<'_, Account>) {
    *account.project().cents += 1_000_000;
}

fn rob_by_method(mut account: Mut<'_, Account>) {
    account.owner_mut();
    *account.cents_mut() += 1_000_000;
}

fn main() {}
