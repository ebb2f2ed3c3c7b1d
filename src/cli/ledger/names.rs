//! Names for a run that goes on without an institution, and for its phases.

/// Hexadecimal digits that tell names apart whose ends were cut.
const HASH_DIGITS: usize = 8;

/// `NAME-without-INSTITUTION` in at most `bytes_max` bytes; with its end cut and a hash of the
/// whole where it is longer or is taken.
pub(super) fn without(
    name: &str,
    institution: &str,
    bytes_max: usize,
    is_taken: impl Fn(&str) -> bool,
) -> String {
    let whole = format!("{name}-without-{institution}");
    if whole.len() <= bytes_max && !is_taken(&whole) {
        return whole;
    }
    let mut kept = whole.len().min(bytes_max - HASH_DIGITS - 1);
    while !whole.is_char_boundary(kept) {
        kept -= 1;
    }
    let start = whole[..kept].trim_end_matches('-');
    let mut hashed = whole.clone();
    loop {
        let hash = blake3::hash(hashed.as_bytes()).to_hex();
        let short = format!("{start}-{}", &hash[..HASH_DIGITS]);
        if !is_taken(&short) {
            return short;
        }
        hashed.push('-');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_short_and_differ() {
        let free = |_: &str| false;
        assert_eq!(without("stable", "east", 40, free), "stable-without-east");
        let mut earlier = vec![without("stable", "east", 40, free)];
        for round in 0..5 {
            let institution = format!("university-hospital-{round}");
            let last = earlier.last().unwrap().clone();
            let name = without(&last, &institution, 40, |name| {
                earlier.iter().any(|taken| taken == name)
            });
            assert!(name.len() <= 40, "{name}");
            assert!(name.starts_with("stable-without-east"), "{name}");
            assert!(!earlier.contains(&name));
            earlier.push(name);
        }
        let taken = |name: &str| name == "stable-without-east";
        let other = without("stable", "east", 40, taken);
        assert!(other.starts_with("stable-without-east-"), "{other}");
        let umlauts = "ä".repeat(20);
        assert!(without(&umlauts, "east", 40, free).len() <= 40);
    }
}
