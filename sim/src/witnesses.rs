//! What is known to catch each deliberate fault.

use crate::proof::Row;

pub const WITNESSES: &[Row] = &[];
