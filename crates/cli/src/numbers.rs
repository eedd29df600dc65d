//! Numbers on the command line: what is none, or out of its range, is answered with what is allowed.

use std::ops::RangeInclusive;

use engine::ranges;

/// An integer within a range.
pub(crate) fn integer(range: RangeInclusive<i64>) -> impl Fn(&str) -> Result<i64, String> + Clone {
    move |text| parsed(text, &ranges::of_integers(&range), |n| range.contains(n))
}

/// A number within a range.
pub(crate) fn number(range: RangeInclusive<f64>) -> impl Fn(&str) -> Result<f64, String> + Clone {
    move |text| parsed(text, &ranges::of_numbers(&range), |x| range.contains(x))
}

/// A share, `(0, 1]`.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    parsed(text, ranges::OF_SHARES, |x| ranges::is_share(*x))
}

/// A count within a range; the end `usize::MAX` is none.
pub(crate) fn count(range: RangeInclusive<usize>) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| {
        let (least, most) = (range.start(), range.end());
        let end = if *most == usize::MAX { String::new() } else { format!(" to {most}") };
        parsed(text, &format!("allowed are integers from {least}{end}"), |n| range.contains(n))
    }
}

/// An integer whose range depends on the model, which checks it; `allowed` says so.
pub(crate) fn of_model<T: std::str::FromStr>(allowed: &'static str) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| parsed(text, allowed, |_| true)
}

fn parsed<T: std::str::FromStr>(text: &str, allowed: &str, is_allowed: impl Fn(&T) -> bool) -> Result<T, String> {
    text.trim().parse().ok().filter(is_allowed).ok_or_else(|| allowed.to_owned())
}
