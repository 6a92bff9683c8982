//! MQTT on the wire, without allocation.
#![no_std]
