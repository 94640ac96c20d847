//! What a peer may be: the roles that its certificate states.
//!
//! A backend reports them with the [`Peer`](crate::Peer); whoever hands out keys of memory regions looks at them. They
//! grant nothing by themselves; over RDMA they also bound what a peer may do with any key.

use std::fmt;
use std::ops::BitOr;
use std::str::FromStr;

/// A set of roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Roles(u8);

/// The roles with their names, as certificates and command lines write them.
const NAMES: [(Roles, &str); 3] = [
    (Roles::READER, "reader"),
    (Roles::WRITER, "writer"),
    (Roles::NODE, "node"),
];

impl Roles {
    /// None at all.
    pub const NONE: Roles = Roles(0);
    /// May read regions.
    pub const READER: Roles = Roles(1);
    /// May write the logs of replicas: a primary.
    pub const WRITER: Roles = Roles(2);
    /// May be connected to: a memory node.
    pub const NODE: Roles = Roles(4);
    /// All of them.
    pub const ALL: Roles = Roles(7);

    /// Whether all of `other` are among these.
    pub const fn contains(self, other: Roles) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Roles {
    type Output = Roles;

    fn bitor(self, other: Roles) -> Roles {
        Roles(self.0 | other.0)
    }
}

impl fmt::Display for Roles {
    /// Their names, joined by `+`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = NAMES.iter().filter(|(role, _)| self.contains(*role));
        for (i, (_, name)) in names.enumerate() {
            if i > 0 {
                f.write_str("+")?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}

impl FromStr for Roles {
    type Err = String;

    /// Reads what `Display` wrote.
    fn from_str(text: &str) -> Result<Roles, String> {
        let mut roles = Roles::NONE;
        for word in text.split('+').filter(|word| !word.is_empty()) {
            let known = NAMES.iter().find(|(_, name)| *name == word);
            let (role, _) =
                known.ok_or_else(|| format!("{word:?} is not a role: reader, writer, node"))?;
            roles = roles | *role;
        }
        Ok(roles)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_read_as_they_were_written() {
        for bits in 0..=Roles::ALL.0 {
            let roles = Roles(bits);
            assert_eq!(roles.to_string().parse(), Ok(roles));
        }
        assert!("reader+king".parse::<Roles>().is_err());
    }
}
