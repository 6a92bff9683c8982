//! MQTT 5.0, by chapter of the standard.

mod ping;

use forebay_tests::packet::Version::V5;
use forebay_tests::raw::Raw;

use crate::{Case, Target, case};

pub fn cases() -> Vec<Case> {
    [ping::cases()].into_iter().flatten().collect()
}
