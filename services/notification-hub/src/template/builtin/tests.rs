//! What tests of events ask of their built-in texts.

use super::*;
use crate::channel::Message;

/// The built-in text with these variables, in Korean and in English. They have the names that the samples have.
#[track_caller]
pub fn both(name: &str, channel: Channel, variables: &Value) -> [Message; 2] {
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(variables), names(&samples(name, channel)[0]), "the samples of {name} over {}", channel.name());
    [Language::Ko, Language::En].map(|language| {
        let compiled = compiled(&TemplateKey::new(name, channel, language)).unwrap();
        compiled.render(variables).unwrap()
    })
}

#[track_caller]
pub fn assert_contains(message: &Message, parts: &[&str]) {
    let text = format!("{}\n{}", message.subject, message.body);
    for part in parts {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}
