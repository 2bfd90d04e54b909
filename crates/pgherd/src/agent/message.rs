//! What agents say to each other over the peer link's agent channel.
//!
//! JSON: fields can be added without breaking a rolling upgrade, and a trace of it can be read.

use brain::{Grant, Status};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    Status(Box<Status>),
    Grant(Grant),
}

impl Message {
    pub fn encode(&self) -> Result<Bytes, serde_json::Error> {
        serde_json::to_vec(self).map(Bytes::from)
    }

    pub fn decode(payload: &[u8]) -> Result<Message, serde_json::Error> {
        serde_json::from_slice(payload)
    }
}
