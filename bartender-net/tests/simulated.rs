//! The contract of the fabric, on the simulated network: calm, and rough.

mod contract;

use bartender_net::sim::{self, Settings};
use contract::{Pair, Story};

fn on(settings: &Settings, seed: u64, test: fn(Pair) -> Story) {
    sim::run(seed, settings.clone(), |network| {
        test(Pair {
            near: network.node("near"),
            far: network.node("far"),
            address: "far:0".into(),
        })
    });
}

fn run(test: fn(Pair) -> Story) {
    on(&Settings::default(), 0, test);
    let rough = Settings {
        // The stories look at a write when it is complete.
        early: 0,
        ..Settings::rough()
    };
    for seed in 0..8 {
        on(&rough, seed, test);
    }
}

contract!(run);
