//! What commands print. Whoever reads it may stop reading: `stampede config | head -1` is no error.

use std::fmt;
use std::io::Write;

/// Prints a line to standard output. Nothing happens when nobody reads it any more: the command still ends with its code.
pub fn line(text: fmt::Arguments<'_>) {
    let mut output = std::io::stdout().lock();
    // Nobody is left who could be told.
    let _ = output.write_fmt(text).and_then(|()| output.write_all(b"\n")).and_then(|()| output.flush());
}

/// `println!` that does not panic when the other end of a pipe is closed.
#[macro_export]
macro_rules! say {
    () => { $crate::output::line(format_args!("")) };
    ($($text:tt)*) => { $crate::output::line(format_args!($($text)*)) };
}
