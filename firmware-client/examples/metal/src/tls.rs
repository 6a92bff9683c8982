//! TLS 1.3 over the stream, by embedded-tls 0.19.
//!
//! What is checked: the server's certificate is signed (ECDSA P-256, SHA-256) by the one that is trusted, is for the
//! server's name, and is valid today; the server has its key; the records are whole (AES-128-GCM).
//!
//! embedded-tls itself takes a handshake whose server sends *no* certificate or no proof of its key, and a chain whose
//! middle is no authority; and a proof without a certificate makes it panic. So [`Once`] lets through exactly one
//! certificate, signed by the trusted one itself, then one proof, and [`Tls::open`] asks whether both came. What nobody
//! checks: whether the trusted certificate is valid today, what keys may be used for, and whether a certificate was
//! revoked. An IP address cannot be the name. A server that changes its keys makes embedded-tls panic (it sends
//! KeyUpdate only after very much data).

use crate::net::Stream;
use crate::task::Task;
use crate::{host, text::Text};
use core::cell::Cell;
use core::fmt::Write as _;
use embedded_io::{BufRead, ErrorKind, ErrorType, Read, ReadReady, Write};
use embedded_tls::blocking::TlsConnection;
use embedded_tls::pki::CertVerifier;
use embedded_tls::{
    Aes128GcmSha256, Certificate, CertificateRef, CertificateVerifyRef, CryptoProvider, CryptoRng, CryptoRngCore,
    TlsClock, TlsConfig, TlsContext, TlsError, TlsVerifier,
};

/// The largest certificate.
const CERTIFICATE: usize = 1_024;

/// The largest record that the server sends. It may be 16 KB, which this chip has no room for; but the server sends no
/// more than Receive Maximum messages of at most `maximum_packet_size` unasked, which is half of this (3.1.1 cannot say
/// either).
const RECORD: usize = 8_192;

/// Records both ways, and the certificate that is trusted.
pub struct Memory {
    receive: [u8; RECORD],
    transmit: [u8; 1_024],
    trusted: [u8; CERTIFICATE],
}

impl Memory {
    /// Empty.
    pub const fn new() -> Self {
        Self { receive: [0; RECORD], transmit: [0; 1_024], trusted: [0; CERTIFICATE] }
    }
}

/// What is needed for each connection.
pub struct Tls {
    receive: &'static mut [u8],
    transmit: &'static mut [u8],
    trusted: &'static [u8],
    config: TlsConfig<'static>,
    waits: Cell<bool>,
}

impl Tls {
    /// Reads the certificate that is trusted.
    pub fn start(memory: &'static mut Memory, task: &Task) -> Self {
        let mut name = Text::<200>::new();
        let _ = write!(name, "{}\0", task.ca);
        Self {
            receive: &mut memory.receive,
            transmit: &mut memory.transmit,
            trusted: host::read_file(name.as_str().as_bytes(), &mut memory.trusted),
            config: TlsConfig::new().with_server_name(task.name),
            waits: Cell::new(true),
        }
    }

    /// Makes a connection secure.
    pub fn open<'t>(&'t mut self, stream: Stream<'t>) -> Result<Secured<'t>, TlsError> {
        self.waits.set(true);
        let records = Records { stream, header: [0; 5], header_len: 0, body_left: 0, waits: &self.waits };
        let mut connection = TlsConnection::new(records, self.receive, self.transmit);
        let verifier = CertVerifier::new(Certificate::X509(self.trusted));
        let mut provider = Provider { verifier: Once { verifier, certificate: false, proof: false } };
        connection.open(TlsContext::new(&self.config, &mut provider))?;
        if !provider.verifier.proof {
            return Err(TlsError::InvalidCertificate);
        }
        self.waits.set(false);
        Ok(Secured { connection, left: 0 })
    }
}

/// A secure connection.
pub struct Secured<'t> {
    connection: TlsConnection<'t, Records<'t>, Aes128GcmSha256>,
    /// Bytes that are decrypted and not taken.
    left: usize,
}

impl Secured<'_> {
    /// Says that this is the end, and closes.
    pub fn close(self) {
        if let Ok(records) = self.connection.close() {
            records.stream.close();
        }
    }
}

impl ErrorType for Secured<'_> {
    type Error = TlsError;
}

impl ReadReady for Secured<'_> {
    /// Takes in a record when there is one. Not each has bytes for us: a session ticket has none.
    fn read_ready(&mut self) -> Result<bool, TlsError> {
        if self.left == 0 {
            match self.connection.fill_buf() {
                Ok(bytes) => self.left = bytes.len(),
                Err(TlsError::Io(ErrorKind::Interrupted)) => {}
                Err(why) => return Err(why),
            }
        }
        Ok(self.left > 0)
    }
}

impl Read for Secured<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, TlsError> {
        let len = self.connection.read(buffer)?;
        self.left = self.left.saturating_sub(len);
        Ok(len)
    }
}

impl Write for Secured<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, TlsError> {
        self.connection.write(bytes)
    }

    fn flush(&mut self) -> Result<(), TlsError> {
        self.connection.flush()
    }
}

/// The stream, read record by record. embedded-tls waits for a record where it wants one; after the handshake, this
/// answers `Interrupted` instead of waiting for the first byte of one.
struct Records<'t> {
    stream: Stream<'t>,
    header: [u8; 5],
    header_len: usize,
    body_left: usize,
    waits: &'t Cell<bool>,
}

impl ErrorType for Records<'_> {
    type Error = ErrorKind;
}

impl Read for Records<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ErrorKind> {
        let in_header = self.body_left == 0;
        if in_header && self.header_len == 0 && !self.waits.get() && !self.stream.read_ready()? {
            return Err(ErrorKind::Interrupted);
        }
        let most = if in_header { self.header.len() - self.header_len } else { self.body_left };
        let room = buffer.len().min(most);
        let len = self.stream.read(buffer.get_mut(..room).unwrap_or_default())?;
        if !in_header {
            self.body_left -= len;
            return Ok(len);
        }
        for byte in buffer.iter().take(len) {
            if let Some(to) = self.header.get_mut(self.header_len) {
                *to = *byte;
            }
            self.header_len += 1;
        }
        if self.header_len == self.header.len() {
            let [_, _, _, high, low] = self.header;
            self.body_left = u16::from_be_bytes([high, low]).into();
            self.header_len = 0;
        }
        Ok(len)
    }
}

impl Write for Records<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        self.stream.flush()
    }
}

/// Wall clock time, without which a certificate that has ended is taken.
struct Clock;

impl TlsClock for Clock {
    fn now() -> Option<u64> {
        Some(host::time().into())
    }
}

struct Provider {
    verifier: Once,
}

impl CryptoProvider for Provider {
    type CipherSuite = Aes128GcmSha256;
    type Signature = &'static [u8];

    fn rng(&mut self) -> impl CryptoRngCore {
        Random
    }

    fn verifier(&mut self) -> Result<&mut impl TlsVerifier<Aes128GcmSha256>, TlsError> {
        Ok(&mut self.verifier)
    }
}

/// One certificate, then one proof that the server has its key.
struct Once {
    verifier: CertVerifier<'static, Aes128GcmSha256, Clock, CERTIFICATE>,
    certificate: bool,
    proof: bool,
}

impl TlsVerifier<Aes128GcmSha256> for Once {
    fn set_hostname_verification(&mut self, name: &str) -> Result<(), TlsError> {
        self.verifier.set_hostname_verification(name)
    }

    fn verify_certificate(
        &mut self,
        transcript: &<Aes128GcmSha256 as embedded_tls::TlsCipherSuite>::Hash,
        certificate: CertificateRef<'_>,
    ) -> Result<(), TlsError> {
        if self.certificate || certificate.entries.len() != 1 {
            return Err(TlsError::InvalidCertificate);
        }
        self.verifier.verify_certificate(transcript, certificate)?;
        self.certificate = true;
        Ok(())
    }

    fn verify_signature(&mut self, proof: CertificateVerifyRef<'_>) -> Result<(), TlsError> {
        if !self.certificate || self.proof {
            return Err(TlsError::InvalidCertificate);
        }
        self.verifier.verify_signature(proof)?;
        self.proof = true;
        Ok(())
    }
}

/// The host's random numbers. A real device has a generator in hardware, and must: TLS is as good as this.
struct Random;

impl CryptoRng for Random {}

impl rand_core::RngCore for Random {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill_bytes(&mut bytes);
        u32::from_ne_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_bytes(&mut bytes);
        u64::from_ne_bytes(bytes)
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(to);
        Ok(())
    }

    fn fill_bytes(&mut self, to: &mut [u8]) {
        let wanted = to.len();
        assert_eq!(host::read_file(b"/dev/urandom\0", to).len(), wanted, "no random numbers");
    }
}
