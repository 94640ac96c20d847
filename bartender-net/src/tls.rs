//! Who is who on TCP: an authority, the certificates it issues, and TLS 1.3 in which both sides show one.
//!
//! What a certificate says is in its alternative names:
//!
//! - the URI `bartender://NAME/ROLES`, `ROLES` being names joined by `+`, as in `bartender://node-3/writer+node`;
//! - with the role *node*, the host name `node.bartender.internal`, which is what a connecting peer asks for: whoever
//!   holds a certificate without that role can connect, but cannot be connected to.
//!
//! Which address a node has is not in it; whoever cares which node answered asks
//! [`Connection::expect`](crate::Connection::expect).
//! Certificates are not revoked one by one: they are issued for a short time, or the authority is changed. When the
//! peer's has expired the connection ends; one that it made before does not keep its rights. (Of how long that is the
//! clock is asked when the connection is made.) The subject of every authority is the same; they differ by their keys.

mod expiry;

pub(crate) use expiry::expired;

use crate::error::{Error, Result};
use crate::fabric::Peer;
use crate::roles::Roles;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// Host name in the certificates of nodes.
pub const NODE_HOST: &str = "node.bartender.internal";
/// Start of the URI that holds name and roles.
pub const URI: &str = "bartender://";
/// Clocks of machines differ: a certificate is valid from this long before it was issued.
const SKEW: Duration = Duration::from_secs(3600);

fn unusable(what: impl fmt::Display) -> Error {
    Error::Certificate {
        what: what.to_string(),
    }
}

/// Issues certificates. Whoever has its key can be anybody.
pub struct Authority {
    key: KeyPair,
    certificate: String,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// What every authority's certificate says.
fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "bartender authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Authority {
    /// A new one, valid from now on for `valid`.
    ///
    /// # Errors
    ///
    /// [`Error::Certificate`].
    pub fn create(valid: Duration) -> Result<Authority> {
        let key = KeyPair::generate().map_err(unusable)?;
        let mut params = authority_params();
        let now = SystemTime::now();
        params.not_before = (now - SKEW).into();
        params.not_after = (now + valid).into();
        let certificate = params.self_signed(&key).map_err(unusable)?.pem();
        Ok(Authority { key, certificate })
    }

    /// A certificate for `name` (letters, digits, `.`, `_`, `-`), valid from now on for `valid`.
    ///
    /// # Errors
    ///
    /// [`Error::Certificate`] where the name is none.
    pub fn issue(&self, name: &str, roles: Roles, valid: Duration) -> Result<Identity> {
        let now = SystemTime::now();
        self.issue_between(name, roles, now - SKEW, now + valid)
    }

    /// The same, valid between two points of time.
    ///
    /// # Errors
    ///
    /// As for [`issue`](Self::issue).
    pub fn issue_between(
        &self,
        name: &str,
        roles: Roles,
        from: SystemTime,
        until: SystemTime,
    ) -> Result<Identity> {
        if !is_name(name) {
            return Err(unusable(format!(
                "{name:?} is not a name: up to 64 letters, digits, dots, underscores and hyphens"
            )));
        }
        let key = KeyPair::generate().map_err(unusable)?;
        let uri = format!("{URI}{name}/{roles}");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(unusable)?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if roles.contains(Roles::NODE) {
            let host = SanType::DnsName(NODE_HOST.try_into().map_err(unusable)?);
            params.subject_alt_names.push(host);
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.not_before = from.into();
        params.not_after = until.into();
        let issuer = Issuer::new(authority_params(), &self.key);
        let certificate = params.signed_by(&key, &issuer).map_err(unusable)?;
        Ok(Identity {
            name: name.into(),
            roles,
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            authority: self.certificate.clone(),
        })
    }

    /// Writes `authority.pem` and `authority.key` (mode 0600), neither of which may be there yet.
    ///
    /// # Errors
    ///
    /// [`Error::Certificate`].
    pub fn save(&self, folder: &Path) -> Result<()> {
        write(
            &folder.join("authority.key"),
            &self.key.serialize_pem(),
            0o600,
        )?;
        write(&folder.join("authority.pem"), &self.certificate, 0o644)
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    ///
    /// [`Error::Certificate`].
    pub fn load(folder: &Path) -> Result<Authority> {
        let key = KeyPair::from_pem(&read(&folder.join("authority.key"))?).map_err(unusable)?;
        let certificate = read(&folder.join("authority.pem"))?;
        Ok(Authority { key, certificate })
    }
}

/// A certificate with its key, and the authority that is believed.
#[derive(Clone)]
pub struct Identity {
    name: String,
    roles: Roles,
    certificate: String,
    key: String,
    authority: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("name", &self.name)
            .field("roles", &self.roles)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// The name it was issued for.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The roles it was issued for.
    pub fn roles(&self) -> Roles {
        self.roles
    }

    /// Writes `NAME.pem` and `NAME.key` (mode 0600), neither of which may be there yet, and `authority.pem` where it
    /// is not.
    ///
    /// # Errors
    ///
    /// [`Error::Certificate`].
    pub fn save(&self, folder: &Path) -> Result<()> {
        write(&folder.join(format!("{}.key", self.name)), &self.key, 0o600)?;
        write(
            &folder.join(format!("{}.pem", self.name)),
            &self.certificate,
            0o644,
        )?;
        let authority = folder.join("authority.pem");
        if authority.exists() && read(&authority)? != self.authority {
            return Err(unusable(format!(
                "{}: is another authority's",
                authority.display()
            )));
        } else if !authority.exists() {
            write(&authority, &self.authority, 0o644)?;
        }
        Ok(())
    }

    /// Reads a certificate, its key, and the authority's certificate. Name and roles are those of the certificate.
    ///
    /// # Errors
    ///
    /// [`Error::Certificate`].
    pub fn load(certificate: &Path, key: &Path, authority: &Path) -> Result<Identity> {
        let (certificate, key, authority) = (read(certificate)?, read(key)?, read(authority)?);
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(unusable)?;
        let (name, roles) = said_by(&der)?;
        Ok(Identity {
            name,
            roles,
            certificate,
            key,
            authority,
        })
    }
}

fn is_name(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=64).contains(&name.len()) && name.chars().all(letter)
}

/// Name and roles in a certificate. Whether it is to be believed is not asked here.
fn said_by(certificate: &CertificateDer<'_>) -> Result<(String, Roles)> {
    let certificate = webpki::EndEntityCert::try_from(certificate).map_err(unusable)?;
    let ours = certificate
        .valid_uri_names()
        .find_map(|uri| uri.strip_prefix(URI)?.split_once('/'));
    match ours {
        Some((name, roles)) if is_name(name) => Ok((name.into(), roles.parse().map_err(unusable)?)),
        _ => Err(unusable(
            "it holds no name of ours; issue it by a bartender authority",
        )),
    }
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let failed = |error: io::Error| unusable(format!("{}: {error}", path.display()));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    let mut file = options.open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| unusable(format!("{}: {error}", path.display())))
}

/// TLS as a node does it.
pub(crate) struct Secured {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
    host: ServerName<'static>,
}

impl Secured {
    pub(crate) fn new(identity: &Identity) -> Result<Secured> {
        let authority =
            CertificateDer::from_pem_slice(identity.authority.as_bytes()).map_err(unusable)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority).map_err(unusable)?;
        let roots = Arc::new(roots);
        let chain =
            CertificateDer::from_pem_slice(identity.certificate.as_bytes()).map_err(unusable)?;
        let chain = vec![chain];
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(unusable)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = &[&rustls::version::TLS13];
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
        let verifier = verifier.build().map_err(unusable)?;
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(unusable)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(unusable)?;
        // Every connection shows its certificates anew: one that has expired stays out.
        client.resumption = rustls::client::Resumption::disabled();
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(unusable)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(unusable)?;
        server.send_tls13_tickets = 0;
        Ok(Secured {
            connector: TlsConnector::from(Arc::new(client)),
            acceptor: TlsAcceptor::from(Arc::new(server)),
            host: ServerName::try_from(NODE_HOST).map_err(unusable)?,
        })
    }

    /// As the connecting side.
    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
        address: &str,
    ) -> Result<(Peer, TlsStream<TcpStream>)> {
        let stream = self.connector.connect(self.host.clone(), stream).await;
        proven(stream.map(TlsStream::from), address)
    }

    /// As the listening side.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
        address: &str,
    ) -> Result<(Peer, TlsStream<TcpStream>)> {
        let stream = self.acceptor.accept(stream).await;
        proven(stream.map(TlsStream::from), address)
    }
}

/// Who the peer of a finished handshake is.
fn proven(
    stream: io::Result<TlsStream<TcpStream>>,
    address: &str,
) -> Result<(Peer, TlsStream<TcpStream>)> {
    let stream = stream.map_err(|source| Error::Connect {
        peer: address.into(),
        source,
    })?;
    let shown = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first());
    let shown = shown.ok_or_else(|| unusable("the peer showed none"))?;
    let (name, roles) = said_by(shown)?;
    let until =
        expiry::until(shown).ok_or_else(|| unusable("it does not say until when it is valid"))?;
    let address = address.to_owned();
    Ok((
        Peer {
            name,
            proven: true,
            address,
            roles,
            until: Some(until),
        },
        stream,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_certificate_says_name_and_roles() {
        let authority = Authority::create(DAY).unwrap();
        let roles = Roles::READER | Roles::NODE;
        let identity = authority.issue("node-3.eu_1", roles, DAY).unwrap();
        let der = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
        assert_eq!(said_by(&der).unwrap(), ("node-3.eu_1".into(), roles));
    }

    #[test]
    fn a_certificate_says_until_when_it_is_valid() {
        let authority = Authority::create(DAY).unwrap();
        // To the second, and on both sides of the year in which the way to write it changes.
        for seconds in [1_800_000_001, 2_524_607_999, 2_524_608_000, 9_000_000_000] {
            let from = SystemTime::UNIX_EPOCH;
            let until = from + Duration::from_secs(seconds);
            let identity = authority.issue_between("a", Roles::ALL, from, until);
            let pem = identity.unwrap().certificate;
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            assert_eq!(expiry::until(&der), Some(until));
        }
    }

    #[test]
    fn what_is_no_name_is_not_issued() {
        let authority = Authority::create(DAY).unwrap();
        for name in ["", "a/b", "ü", "a b", &"x".repeat(65)] {
            let refused = authority.issue(name, Roles::NODE, DAY);
            assert!(
                matches!(refused, Err(Error::Certificate { .. })),
                "{name:?}"
            );
        }
    }

    #[test]
    #[cfg(unix)]
    fn files_are_read_as_they_were_written_and_keys_are_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        Authority::create(DAY).unwrap().save(folder.path()).unwrap();
        let authority = Authority::load(folder.path()).unwrap();
        let identity = authority.issue("a", Roles::ALL, DAY).unwrap();
        identity.save(folder.path()).unwrap();
        let again = Identity::load(&path("a.pem"), &path("a.key"), &path("authority.pem")).unwrap();
        assert_eq!((again.name(), again.roles()), ("a", Roles::ALL));
        Secured::new(&again).unwrap();
        for key in ["a.key", "authority.key"] {
            let mode = std::fs::metadata(path(key)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
        // Nothing is overwritten.
        assert!(identity.save(folder.path()).is_err());
        assert!(authority.save(folder.path()).is_err());
    }
}
