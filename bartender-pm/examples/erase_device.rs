//! Makes room for a region on a device of persistent memory, destroying what
//! is on it: `cargo run -p bartender-pm --example erase_device -- /dev/dax0.0`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(device), None) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: erase_device /dev/daxN.M");
        return ExitCode::from(2);
    };
    match bartender_pm::erase_device(device) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
