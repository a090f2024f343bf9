//! The rules of the book: what is captured once, what lapses, what goes back, and what a second reader sees.

use super::*;

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
}

fn authorised(book: &mut Book, merchant_pay_key: &str, amount: i64) -> String {
    let (payment_id, entry) = book.authorise(merchant_pay_key.to_owned(), None, amount, at(0), at(600)).unwrap();
    book.apply(entry).unwrap();
    payment_id
}

/// `wrote` a row, or `again` answered with one, or the refusal's code.
fn carry_out(book: &mut Book, decision: Decision) -> String {
    match decision {
        Decision::Write(entry) => {
            book.apply(entry).unwrap();
            "wrote".to_owned()
        }
        Decision::Replay(row) => format!("again {row}"),
        Decision::Refuse(code, _) => format!("{code:?}"),
    }
}

fn capture(book: &mut Book, payment_id: &str, key: &str, second: i64) -> String {
    let decision = book.capture(Capture { payment_id, key, declined: None }, at(second));
    carry_out(book, decision)
}

fn decline(book: &mut Book, payment_id: &str, key: &str) -> String {
    let declined = Some(Code::NotEnoughAccountBalance);
    let decision = book.capture(Capture { payment_id, key, declined }, at(1));
    carry_out(book, decision)
}

fn cancel(book: &mut Book, payment_id: &str, key: &str, amount: i64, refused: bool) -> String {
    let request = Cancel { payment_id, key, amount, transaction_key: None, reason: None, refused };
    let decision = book.cancel(request, at(2));
    carry_out(book, decision)
}

#[test]
fn a_payment_is_captured_once_whatever_the_keys() {
    let mut book = Book::new();
    let payment = authorised(&mut book, "order-1", 1_000);
    let other = authorised(&mut book, "order-2", 500);
    assert_eq!(capture(&mut book, &payment, "k1", 1), "wrote");
    assert_eq!(capture(&mut book, &payment, "k1", 1), "again 0");
    assert_eq!(capture(&mut book, &payment, "k2", 1), "AlreadyComplete");
    assert_eq!(capture(&mut book, &other, "k1", 1), "Fail");
    assert_eq!(capture(&mut book, "nobody's", "k3", 1), "InvalidPaymentId");
    let totals = book.totals();
    assert_eq!((totals.captured, totals.captures, totals.double_captures), (1_000, 1, 0));
}

#[test]
fn an_authorisation_lapses_but_answers_are_repeated_after_it() {
    let mut book = Book::new();
    let (payment, late) = (authorised(&mut book, "order-1", 1_000), authorised(&mut book, "order-2", 1_000));
    assert_eq!(capture(&mut book, &payment, "k1", 599), "wrote");
    assert_eq!(capture(&mut book, &payment, "k1", 601), "again 0");
    assert_eq!(capture(&mut book, &late, "k2", 600), "TimeExpired");
}

#[test]
fn a_declined_key_stays_declined_and_another_may_succeed() {
    let mut book = Book::new();
    let payment = authorised(&mut book, "order-1", 1_000);
    assert_eq!(decline(&mut book, &payment, "k1"), "wrote");
    assert_eq!(capture(&mut book, &payment, "k1", 1), "again 0");
    assert_eq!(capture(&mut book, &payment, "k2", 1), "wrote");
    assert_eq!(decline(&mut book, &payment, "k2"), "again 1");
    let totals = book.totals();
    assert_eq!((totals.captures, totals.declines, totals.net), (1, 1, 1_000));
}

#[test]
fn cancels_never_exceed_the_capture() {
    let mut book = Book::new();
    let payment = authorised(&mut book, "order-1", 1_000);
    assert_eq!(cancel(&mut book, &payment, "c0", 100, false), "InvalidPaymentId");
    assert_eq!(capture(&mut book, &payment, "k1", 1), "wrote");
    assert_eq!(cancel(&mut book, &payment, "c1", 1_001, false), "OverRemainAmount");
    assert_eq!(cancel(&mut book, &payment, "c1", 0, false), "Fail");
    assert_eq!(cancel(&mut book, &payment, "c1", 400, true), "CancelNotComplete");
    assert_eq!(cancel(&mut book, &payment, "c1", 400, false), "wrote");
    assert_eq!(cancel(&mut book, &payment, "c1", 400, false), "again 1");
    assert_eq!(cancel(&mut book, &payment, "c1", 500, false), "Fail");
    assert_eq!(cancel(&mut book, &payment, "k1", 400, false), "Fail");
    assert_eq!(cancel(&mut book, &payment, "c2", 601, false), "OverRemainAmount");
    assert_eq!(cancel(&mut book, &payment, "c2", 600, false), "wrote");
    assert_eq!(cancel(&mut book, &payment, "c3", 1, false), "AlreadyCanceled");
    let totals = book.totals();
    assert_eq!((totals.captured, totals.cancelled, totals.net, totals.cancels), (1_000, 1_000, 0, 2));
}

#[test]
fn totals_tell_two_captures_from_two_charges() {
    let mut book = Book::new();
    let payments: Vec<String> = (0..2).map(|_| authorised(&mut book, "order-1", 1_000)).collect();
    assert_eq!(capture(&mut book, &payments[0], "k1", 1), "wrote");
    assert_eq!(capture(&mut book, &payments[1], "k2", 1), "wrote");
    assert_eq!((book.totals().double_captures, book.totals().double_charges), (1, 1));
    assert_eq!(cancel(&mut book, &payments[1], "c1", 1_000, false), "wrote");
    assert_eq!((book.totals().double_captures, book.totals().double_charges), (1, 0));
}

#[test]
fn a_payment_has_only_so_many_rows() {
    let mut book = Book::new();
    let payment = authorised(&mut book, "order-1", 1_000);
    for number in 0..ROWS_PER_PAYMENT_MAX {
        assert_eq!(decline(&mut book, &payment, &format!("k{number}")), "wrote");
    }
    assert_eq!(capture(&mut book, &payment, "one more", 1), "Fail");
}

#[test]
fn a_book_that_was_read_back_goes_on_with_new_numbers() {
    let mut book = Book::new();
    let (payment_id, entry) = book.authorise("order-1".to_owned(), None, 1_000, at(0), at(600)).unwrap();
    let line = serde_json::to_string(&entry).unwrap();
    let mut again = Book::new();
    again.apply(serde_json::from_str(&line).unwrap()).unwrap();
    assert_eq!(again.payment(&payment_id).unwrap().amount, 1_000);
    assert_ne!(authorised(&mut again, "order-2", 1), payment_id);
    assert!(
        again
            .apply(Entry::Captured {
                payment_id: "unknown".to_owned(),
                pay_hist_id: "h".to_owned(),
                key: "k".to_owned(),
                at: at(0),
            })
            .is_err()
    );
}

#[test]
fn times_are_korean_and_read_back() {
    let time = DateTime::parse_from_rfc3339("2026-12-31T15:00:01.9Z").unwrap().to_utc();
    assert_eq!(in_korea(time), "20270101000001");
    assert_eq!(from_korea("20270101000001").unwrap().to_rfc3339(), "2026-12-31T15:00:01+00:00");
    assert_eq!(from_korea("20270101"), None);
}
