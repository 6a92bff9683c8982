//! What connections cost beside messages: memory of idle ones, processor time of each connect and TLS handshake.

use serde::Serialize;

use super::brokers::{Program, Running};
use super::loads;
use crate::tools::bench::meter::Meter;
use crate::tools::bench::plan::Plan;
use crate::tools::bench::progress::Progress;
use crate::tools::bench::report::Report;
use crate::tools::bench::run;
use crate::tools::exit::Failure;

/// Until what a burst of connects has needed for a moment is given back.
const SETTLE_S: f64 = 3.0;
/// Idle TCP connections.
pub const IDLE: usize = 10_000;
const IDLE_TCP: &str = "connect -c 10000";
/// Idle TLS connections: each costs this program some 20 KB as well.
const IDLE_TLS: &str = "connect -c 2000";
/// One after the other.
const CONNECTS: &str = "reconnect -c 1 -n 5000";
const HANDSHAKES: &str = "reconnect -c 1 -n 500";

/// What one broker's connections cost; TLS where it has that.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Footprint {
    /// Kilobytes of it that are in memory without any connection.
    pub idle_kb: Option<u64>,
    /// Bytes for each idle TCP connection.
    pub tcp_bytes: Option<f64>,
    /// Bytes for each idle TLS connection.
    pub tls_bytes: Option<f64>,
    /// Microseconds of processor time for a connection: accept, CONNECT, DISCONNECT, close.
    pub connect_us: Option<f64>,
    /// The same over TLS, nothing resumed.
    pub handshake_us: Option<f64>,
}

/// Measures a broker, freshly started for each figure.
///
/// # Errors
/// It does not start, or does not do what it is asked for.
pub fn measure(program: &Program, progress: &mut Progress) -> Result<Footprint, Failure> {
    let broker = started(program)?;
    let idle_kb = Meter::new(broker.pid()).resident_kb();
    let connect_us = each(CONNECTS, &broker, None, progress)?.cpu_us_each;
    drop(broker);
    let tcp_bytes = each(IDLE_TCP, &started(program)?, None, progress)?.bytes_a_connection;
    let broker = started(program)?;
    if broker.tls_port.is_none() {
        return Ok(Footprint { idle_kb, tcp_bytes, connect_us, ..Footprint::default() });
    }
    let tls_bytes = each(IDLE_TLS, &broker, Some(program), progress)?.bytes_a_connection;
    drop(broker);
    let handshake_us = each(HANDSHAKES, &started(program)?, Some(program), progress)?.cpu_us_each;
    Ok(Footprint { idle_kb, tcp_bytes, tls_bytes, connect_us, handshake_us })
}

fn started(program: &Program) -> Result<Running, Failure> {
    program.start().map_err(Failure::failed)
}

fn each(
    line: &str,
    broker: &Running,
    tls: Option<&Program>,
    progress: &mut Progress,
) -> Result<crate::tools::bench::report::Broker, Failure> {
    let plan = Plan::new(&loads::arguments(line, broker, tls, SETTLE_S)?)?;
    let Report { broker, connections, notes, .. } = run::run(&plan, progress)?;
    if connections.is_some_and(|connections| connections.failed + connections.ended > 0) {
        return Err(Failure::failed(notes.join("; ")));
    }
    broker.ok_or_else(|| Failure::failed("its process cannot be measured"))
}
