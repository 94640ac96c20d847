//! `bartender cert`: an authority, and what it issues. Keys are readable by their owner only; nothing is overwritten.

use super::Outcome;
use super::args::CertCommand;
use bartender_net::tls::Authority;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn run(command: CertCommand) -> Outcome {
    match command {
        CertCommand::Authority { dir, days } => {
            folder(&dir)?;
            Authority::create(DAY * days)?.save(&dir)?;
            said(&dir.join("authority.pem"))
        }
        CertCommand::Issue {
            name,
            authority,
            out,
            role,
            days,
        } => {
            let authority = Authority::load(&authority).map_err(|error| {
                format!("{error}; `bartender cert authority DIR` makes an authority")
            })?;
            folder(&out)?;
            authority.issue(&name, role, DAY * days)?.save(&out)?;
            said(&out.join(format!("{name}.pem")))
        }
    }
}

fn folder(path: &Path) -> Outcome {
    let made = std::fs::create_dir_all(path);
    made.map_err(|error| format!("{}: {error}", path.display()).into())
}

fn said(path: &Path) -> Outcome {
    Ok(writeln!(io::stdout(), "{}", path.display())?)
}
