//! What a notification is to say and over which channels, before it has ids.

use serde_json::Value;

use crate::channel::{Channel, Message};

pub struct Draft<'e> {
    /// The account it is for, as the event names it; none: it is for operators alone.
    pub user_id: Option<&'e str>,
    /// What it is about, for whoever reads it over the interface. The account it is for reads it too.
    pub data: Value,
    /// At most one for each channel.
    pub messages: Vec<(Channel, Message)>,
}
