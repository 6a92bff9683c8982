//! A CA, and certificates of every kind from it.

use std::path::{Path, PathBuf};

use forebay_tests::scratch::Scratch;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
};
use time::{Duration, OffsetDateTime};

pub(crate) const DAY: Duration = Duration::DAY;

/// A folder with a CA.
pub(crate) struct Pki {
    pub(crate) folder: Scratch,
    issuer: Issuer<'static, KeyPair>,
}

/// What a certificate is made of.
pub(crate) struct Wanted {
    pub(crate) params: CertificateParams,
}

impl Wanted {
    /// For a client of this name, valid for a year.
    pub(crate) fn client(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Site");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        Self { params }.valid(-DAY, DAY * 365)
    }

    /// For a server with these names.
    pub(crate) fn server(names: &[&str]) -> Self {
        let mut wanted = Self::client(names[0]);
        let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        wanted.params.subject_alt_names = CertificateParams::new(names).unwrap().subject_alt_names;
        wanted.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        wanted
    }

    /// From and until so long from now.
    pub(crate) fn valid(mut self, from: Duration, until: Duration) -> Self {
        let now = OffsetDateTime::now_utc();
        (self.params.not_before, self.params.not_after) = (now + from, now + until);
        self
    }

    pub(crate) fn serial(mut self, serial: u8) -> Self {
        self.params.serial_number = Some(vec![serial].into());
        self
    }

    pub(crate) fn names(mut self, names: Vec<SanType>) -> Self {
        self.params.subject_alt_names = names;
        self
    }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name = rcgen::DistinguishedName::new();
    ca.distinguished_name.push(DnType::CommonName, name);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca
}

impl Pki {
    pub(crate) fn new() -> Self {
        Self::named("test CA")
    }

    pub(crate) fn named(name: &str) -> Self {
        let folder = Scratch::new("pki");
        let key = KeyPair::generate().unwrap();
        let ca = ca_params(name);
        std::fs::write(folder.path().join("ca.pem"), ca.self_signed(&key).unwrap().pem()).unwrap();
        let pki = Self { folder, issuer: Issuer::new(ca, key) };
        pki.issue("server", Wanted::server(&["localhost", "127.0.0.1"]));
        pki
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// `NAME.pem` and `NAME.key` by this CA.
    pub(crate) fn issue(&self, name: &str, wanted: Wanted) {
        let key = KeyPair::generate().unwrap();
        let pem = wanted.params.signed_by(&key, &self.issuer).unwrap().pem();
        write(&self.path(&format!("{name}.pem")), &pem);
        write(&self.path(&format!("{name}.key")), &key.serialize_pem());
    }

    /// The same, signed by itself.
    pub(crate) fn self_signed(&self, name: &str, wanted: &Wanted) {
        let key = KeyPair::generate().unwrap();
        write(&self.path(&format!("{name}.pem")), &wanted.params.self_signed(&key).unwrap().pem());
        write(&self.path(&format!("{name}.key")), &key.serialize_pem());
    }

    /// The same, with so many CAs between this CA and the certificate.
    pub(crate) fn long_chain(&self, name: &str, wanted: &Wanted, between: usize) {
        let mut chain = Vec::new();
        let mut issuers = vec![];
        for n in 0..between {
            let (key, params) = (KeyPair::generate().unwrap(), ca_params(&format!("between {n}")));
            let issuer = issuers.last().unwrap_or(&self.issuer);
            chain.push(params.signed_by(&key, issuer).unwrap().pem());
            issuers.push(Issuer::new(params, key));
        }
        let key = KeyPair::generate().unwrap();
        chain.push(wanted.params.signed_by(&key, issuers.last().unwrap()).unwrap().pem());
        chain.reverse();
        write(&self.path(&format!("{name}.pem")), &chain.concat());
        write(&self.path(&format!("{name}.key")), &key.serialize_pem());
    }

    /// `crl.pem` with these serial numbers; the next one is due so long from now.
    pub(crate) fn revoke(&self, serials: &[u8], next: Duration) {
        let now = OffsetDateTime::now_utc();
        let revoked = |serial: &u8| RevokedCertParams {
            serial_number: vec![*serial].into(),
            revocation_time: now - DAY * 2,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now - DAY * 30,
            next_update: now + next,
            crl_number: vec![1].into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        write(&self.path("crl.pem"), &list.signed_by(&self.issuer).unwrap().pem().unwrap());
    }
}

/// Whole or not at all.
pub(crate) fn write(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(&beside, path).unwrap();
}
