//! Frames of the TCP backend: parsing is total, and a frame that was understood is written as it was read.

#![no_main]

use bartender_net::layout;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Some((frame, taken))) = layout::parse(rest) {
        assert!(0 < taken && taken <= rest.len(), "{frame:?} takes {taken}");
        let mut again = Vec::new();
        frame.put(&mut again);
        let (same, _) = layout::parse(&again)
            .expect("it was a frame")
            .expect("it is whole");
        assert_eq!(same, frame);
        rest = &rest[taken..];
    }
});
