//! What templates may do, and what is refused.

use proptest::prelude::*;
use serde_json::{Value, json};
use testkit::properties;

use super::*;

fn render(channel: Channel, subject: &str, body: &str, variables: Value) -> Result<Message, Flaw> {
    Compiled::new(channel, subject, body)?.render(&variables)
}

#[track_caller]
fn flaw(subject: &str, body: &str, variables: Value) -> (&'static str, usize) {
    let flaw = render(Channel::Email, subject, body, variables).unwrap_err();
    (flaw.part, flaw.line)
}

#[test]
fn every_built_in_text_can_be_rendered_with_its_samples_in_each_language() {
    assert_eq!(builtin::keys().count(), 16);
    for key in builtin::keys() {
        let samples = builtin::samples(&key.name, key.channel);
        assert!(!samples.is_empty(), "{key:?}");
        for sample in samples {
            let message = builtin::compiled(key).unwrap().render(&sample).unwrap();
            assert!(!message.body.contains("none") && !message.body.contains("{{"), "{key:?}: {}", message.body);
        }
    }
    assert!(builtin::samples("OTHER", Channel::Email).is_empty());
}

#[test]
fn a_mistake_is_found_with_its_place() {
    let data = json!({ "name": "Ann", "nothing": null });
    for (body, line) in [
        ("a\n{{ name", 2),
        ("a\nb\n{% if name %}c", 3),
        ("a\n\n{{ missing }}", 3),
        ("{{ nothing }}", 1),
        ("a\n{{ name.first.x }}", 2),
        ("a\n{{ name|nofilter }}", 2),
        ("a\n{{ name|safe }}", 2),
        ("a\n{{ name|money }}", 2),
        ("a\n{{ name|koreantime }}", 2),
        ("a\n{% include 'other' %}", 2),
        ("a\n{% if missing %}x{% endif %}", 2),
    ] {
        assert_eq!(flaw("s", body, data.clone()), ("body", line), "{body}");
    }
    assert_eq!(flaw("{{ missing }}", "b", data.clone()), ("subject", 1));
    assert_eq!(flaw("  ", "b", data.clone()).0, "subject");
    assert_eq!(flaw("a\nb", "b", data.clone()).0, "subject");
    assert_eq!(flaw("s", " \n ", data.clone()).0, "body");
    assert_eq!(flaw("s", "a\nb\u{7}", data).0, "body");
}

#[test]
fn rendering_is_bounded_in_steps_in_depth_and_in_size() {
    let data = json!({ "list": vec!["x".repeat(1_000); 300] });
    let loops = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}x";
    let flaw = |body: &str| render(Channel::Email, "s", body, data.clone()).unwrap_err().message;
    assert!(flaw(loops).contains("too many steps"), "{}", flaw(loops));
    assert!(flaw("{% for x in list %}{{ x }}{% endfor %}").contains("longer than"));
    // A text that multiplies itself is stopped before it fills the memory.
    flaw("{{ list|join * 100000 }}");
    flaw("{{ 'x' * 1000000000 }}");
    let deep = format!("{}1{}", "(".repeat(5_000), ")".repeat(5_000));
    flaw(&format!("{{{{ {deep} }}}}"));
}

#[test]
fn a_variable_cannot_write_mark_up_of_slack_and_the_template_can() {
    let data = json!({ "name": "<!channel> & <https://x|y>" });
    let message = render(Channel::Slack, "{{ name }}", "*{{ name }}* <https://ours|open>", data.clone()).unwrap();
    assert_eq!(message.body, "*&lt;!channel&gt; &amp; &lt;https://x|y&gt;* <https://ours|open>");
    assert!(message.is_markup);
    // Its subject is a header, which is plain text and escaped as it is sent.
    assert_eq!(message.subject, "<!channel> & <https://x|y>");
    let mail = render(Channel::Email, "s", "{{ name }}", data).unwrap();
    assert_eq!((mail.body.as_str(), mail.is_markup), ("<!channel> & <https://x|y>", false));
}

#[test]
fn a_variable_cannot_add_a_line_to_a_subject() {
    let message = render(Channel::Email, "Hi {{ name }}", "b", json!({ "name": "A\r\nBcc: x@y" })).unwrap();
    assert_eq!(message.subject, "Hi A  Bcc: x@y");
}

#[test]
fn who_asks_for_a_language_gets_it_and_others_get_theirs_or_the_default() {
    use Language::{En, Ko};
    assert_eq!(languages(Some(En), Some(Ko), Ko), [En]);
    assert_eq!(languages(None, Some(En), Ko), [En, Ko]);
    assert_eq!(languages(None, None, Ko), [Ko, En]);
    assert_eq!(languages(None, None, En), [En, Ko]);
}

proptest! {
    #![proptest_config(properties::quick(200))]
    #[test]
    fn no_text_and_no_value_can_make_it_panic_or_forge_mark_up(body in "\\PC{0,80}", name in "\\PC{0,40}") {
        let data = json!({ "name": name });
        drop(render(Channel::Slack, "s", &body, data.clone()));
        if let Ok(message) = render(Channel::Slack, "s", "a{{ name }}b", data) {
            prop_assert!(!message.body.contains('<') && !message.body.contains('>'));
        }
    }
}
