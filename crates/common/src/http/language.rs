//! `Accept-Language` (RFC 9110, section 12.5.4): which of our two languages somebody would rather read.

use actix_web::HttpRequest;
use actix_web::http::header::ACCEPT_LANGUAGE;

/// Whether Korean comes before English: by weight, and at the same weight by place. English where nothing is said.
pub fn prefers_korean(request: &HttpRequest) -> bool {
    let values = request.headers().get_all(ACCEPT_LANGUAGE).filter_map(|value| value.to_str().ok());
    let ranges: Vec<_> = values.flat_map(|value| value.split(',')).map(Range::parse).collect();
    let (korean, english) = (wish(&ranges, "ko"), wish(&ranges, "en"));
    match korean.weight.cmp(&english.weight) {
        std::cmp::Ordering::Equal => korean.weight > 0 && korean.place < english.place,
        order => order.is_gt(),
    }
}

struct Range<'h> {
    language: &'h str,
    /// In thousandths. Nothing that cannot be read is wished for.
    weight: u32,
}

impl Range<'_> {
    fn parse(text: &str) -> Range<'_> {
        let (tag, parameters) = text.split_once(';').unwrap_or((text, ""));
        let weight = match parameters.trim() {
            "" => Some(1000),
            parameter => parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q=")).and_then(thousandths),
        };
        // `ko_KR` is no tag of the standard, but of many programs.
        let language = tag.trim().split(['-', '_']).next().unwrap_or_default();
        Range { language, weight: weight.unwrap_or(0) }
    }
}

fn thousandths(weight: &str) -> Option<u32> {
    let weight: f32 = weight.trim().parse().ok()?;
    (0.0..=1.0).contains(&weight).then_some((weight * 1000.0) as u32)
}

struct Wish {
    weight: u32,
    place: usize,
}

/// How much `language` is wished for. `*` stands for those that are not named.
fn wish(ranges: &[Range<'_>], language: &str) -> Wish {
    let of = |name: &str| {
        let named = ranges.iter().enumerate().filter(|(_, range)| range.language.eq_ignore_ascii_case(name));
        // Of several at one weight, the first.
        named
            .map(|(place, range)| Wish { weight: range.weight, place })
            .reduce(|best, next| if next.weight > best.weight { next } else { best })
    };
    of(language).or_else(|| of("*")).unwrap_or(Wish { weight: 0, place: usize::MAX })
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn korean_is_chosen_where_it_comes_first() {
        for (accepted, korean) in [
            ("ko", true),
            ("KO", true),
            ("ko,en", true),
            ("en,ko", false),
            ("ko_KR", true),
            ("ko-KR,ko;q=0.9,en;q=0.8", true),
            ("en-US,en;q=0.9,ko;q=0.8", false),
            ("fr,ko;q=0.5", true),
            ("fr", false),
            ("*", false),
            ("en;q=0.5, *", true),
            ("ko;q=0, *", false),
            ("ko;q=0", false),
            ("ko;q=x", false),
            ("ko;q=2", false),
            ("kok", false),
            ("", false),
        ] {
            let request = TestRequest::default().insert_header((ACCEPT_LANGUAGE, accepted));
            assert_eq!(prefers_korean(&request.to_http_request()), korean, "{accepted}");
        }
    }
}
