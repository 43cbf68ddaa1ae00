//! Whether a delivery was signed by who it says it is from.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use hmac::{Hmac, KeyInit, Mac, digest::CtOutput};
use sha2::Sha256;

/// The longest header that is looked at, in bytes. Real ones have some hundred.
const MAX_HEADER: usize = 4096;

const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The first thing wrong with a signature. For the log: outside, all of them are one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is no header, or an empty one.
    #[error("not_signed")]
    NotSigned,
    /// The header is not a list of `key=value`, is too long, or has no time, two, or one that is no number.
    #[error("header_malformed")]
    Malformed,
    /// No signature of the scheme that counts.
    #[error("scheme_missing")]
    SchemeMissing,
    /// No signature matches with any secret.
    #[error("signature_mismatch")]
    Mismatch,
    /// It matches, and was made too long ago.
    #[error("timestamp_stale")]
    Stale,
    /// It matches, and says that it was made later than now.
    #[error("timestamp_in_future")]
    FromTheFuture,
}

/// Checks `header` as Stripe's `Stripe-Signature` of `body`: that one of its `v1` signatures was made with one of `secrets`, at most
/// `tolerance_s` seconds from `now_s` (Unix time). Which of the secrets it was, by index.
///
/// Pass the raw bytes: parsing and writing JSON again changes what was signed. Where Stripe's own libraries differ from each other,
/// this is the strictest of them, and stricter in two things: a time in the *future* is refused as one in the past is, since
/// accepting it would let a captured delivery be replayed until that time arrives; and of two times neither is believed, since the
/// libraries do not agree on which counts. What was signed is the time as it was written, not as a number.
///
/// The signature is checked before the time, so that `Stale` speaks of a delivery that was genuine.
///
/// # Errors
/// [`SignatureError`] names the first thing wrong; none reveals the signature that was expected.
pub fn verify_stripe(
    header: Option<&str>,
    body: &[u8],
    secrets: &[&str],
    now_s: i64,
    tolerance_s: i64,
) -> Result<usize, SignatureError> {
    verify_timed("v1", header, body, secrets, now_s, [tolerance_s, tolerance_s])
}

/// Checks `header` as TikTok's `Tiktok-Signature` of `body`: `t=<seconds>,s=<hex>`, made with one of `secrets`, at most
/// `tolerance_s[0]` seconds before `now_s` and `tolerance_s[1]` after it. Which of the secrets it was, by index.
///
/// Otherwise as [`verify_stripe`].
///
/// # Errors
/// [`SignatureError`].
pub fn verify_tiktok(
    header: Option<&str>,
    body: &[u8],
    secrets: &[&str],
    now_s: i64,
    tolerance_s: [i64; 2],
) -> Result<usize, SignatureError> {
    verify_timed("s", header, body, secrets, now_s, tolerance_s)
}

/// Checks `header` as Meta's `X-Hub-Signature-256` of `body`: `sha256=` and 64 lower-case hex digits, made with one of `secrets`. Which of
/// the secrets it was, by index. No time is signed: what is sent again must be known by what it says.
///
/// Pass the raw bytes: Meta escapes every character beyond ASCII, and signs what it escaped.
///
/// # Errors
/// [`SignatureError`].
pub fn verify_meta(header: Option<&str>, body: &[u8], secrets: &[&str]) -> Result<usize, SignatureError> {
    let header = header.filter(|header| !header.is_empty()).ok_or(SignatureError::NotSigned)?;
    let (scheme, value) = header.split_once('=').ok_or(SignatureError::Malformed)?;
    if scheme != "sha256" {
        return Err(SignatureError::SchemeMissing);
    }
    let signature = signature_of(value).ok_or(SignatureError::Malformed)?;
    let made = |secret: &&str| matches(secret, &[body], &[signature]);
    secrets.iter().position(made).ok_or(SignatureError::Mismatch)
}

/// Checks `signed` as Meta's `signed_request`, which is `<signature>.<payload>` in base64url, and signed with one of `secrets`. Which of them it was,
/// by index, and the payload, decoded and not looked at yet: what it says of how it was signed is for the caller to check.
///
/// What was signed is the payload as it is encoded.
///
/// # Errors
/// [`SignatureError`].
pub fn verify_signed_request(signed: &str, secrets: &[&str]) -> Result<(usize, Vec<u8>), SignatureError> {
    let (signature, payload) = signed.split_once('.').ok_or(SignatureError::Malformed)?;
    // A text is read in one way only: other characters, and bits beyond the last byte, are refused. Padding may be there or not.
    let signature: [u8; 32] =
        BASE64URL.decode(signature).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(SignatureError::Malformed)?;
    let made = |secret: &&str| matches(secret, &[payload.as_bytes()], &[signature]);
    let which = secrets.iter().position(made).ok_or(SignatureError::Mismatch)?;
    Ok((which, BASE64URL.decode(payload).map_err(|_| SignatureError::Malformed)?))
}

/// What a text stands for under a secret: 32 hexadecimal digits, the same each time, that cannot be guessed without the secret.
#[must_use]
pub fn code_of(secret: &str, text: &str) -> String {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(text.as_bytes());
    hex::encode(&mac.finalize().into_bytes()[..16])
}

/// Whether `given` is one of `tokens`. Compared in constant time.
#[must_use]
pub fn is_one_of(given: &str, tokens: &[&str]) -> bool {
    let digest = |text: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(b"token").ok()?;
        mac.update(text.as_bytes());
        Some(mac.finalize())
    };
    let given = digest(given);
    given.is_some() && tokens.iter().any(|token| digest(token) == given)
}

/// Checks a header with a time, whose signatures of the text `<time>.<body>` stand under `scheme`.
fn verify_timed(
    scheme: &str,
    header: Option<&str>,
    body: &[u8],
    secrets: &[&str],
    now_s: i64,
    [past, future]: [i64; 2],
) -> Result<usize, SignatureError> {
    let header = header.filter(|header| !header.is_empty()).ok_or(SignatureError::NotSigned)?;
    let Signed { at, at_text, signatures } = parse(header, scheme)?;
    if signatures.is_empty() {
        return Err(SignatureError::SchemeMissing);
    }
    let made = |secret: &&str| matches(secret, &[at_text.as_bytes(), b".", body], &signatures);
    let matching = secrets.iter().position(made).ok_or(SignatureError::Mismatch)?;
    match now_s.saturating_sub(at) {
        age if age > past => Err(SignatureError::Stale),
        age if age < -future => Err(SignatureError::FromTheFuture),
        _ => Ok(matching),
    }
}

/// Whether one of `signatures` is HMAC-SHA256 of all `parts` under `secret`. Compared in constant time.
fn matches(secret: &str, parts: &[&[u8]], signatures: &[[u8; 32]]) -> bool {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return false };
    parts.iter().for_each(|part| mac.update(part));
    let expected = mac.finalize();
    signatures.iter().any(|signature| CtOutput::new((*signature).into()) == expected)
}

/// 64 lower-case hex digits. Upper case is none: no provider writes it.
fn signature_of(value: &str) -> Option<[u8; 32]> {
    let mut signature = [0; 32];
    let lower = !value.bytes().any(|byte| byte.is_ascii_uppercase());
    (lower && hex::decode_to_slice(value, &mut signature).is_ok()).then_some(signature)
}

struct Signed<'a> {
    at: i64,
    at_text: &'a str,
    signatures: Vec<[u8; 32]>,
}

fn parse<'a>(header: &'a str, scheme: &str) -> Result<Signed<'a>, SignatureError> {
    if header.len() > MAX_HEADER {
        return Err(SignatureError::Malformed);
    }
    let (mut time, mut signatures) = (None, Vec::new());
    for item in header.split(',') {
        let (key, value) = item.split_once('=').ok_or(SignatureError::Malformed)?;
        match key {
            "t" => {
                let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
                let number = value.parse().ok().filter(|_| digits).ok_or(SignatureError::Malformed)?;
                if time.replace((number, value)).is_some() {
                    return Err(SignatureError::Malformed);
                }
            }
            // One that is no signature does not spoil another that is.
            key if key == scheme => signatures.extend(signature_of(value)),
            // Other schemes are never accepted: one could be weaker.
            _ => {}
        }
    }
    let (at, at_text) = time.ok_or(SignatureError::Malformed)?;
    Ok(Signed { at, at_text, signatures })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"id":"evt_test_1","object":"event","type":"invoice.paid"}"#;
    const NOTED: &str = r#"{"id":"evt_test_1","object":"event","type":"invoice.paid","note":"åäö"}"#;
    const AT: i64 = 1_700_000_000;
    const SECRET: &str = "whsec_test_secret";
    const ROTATED: &str = "whsec_rotated_secret";
    const GOOD: &str = "3e3e661992c26c45d9105cbea450acc1a34f8c6dbafbd891f858c6fd9054fe3e";
    const GOOD_ROTATED: &str = "1e46a2b764740714b5d5ddc0da0e53561527db4f00a1ec5b7cabf9232aa7ef84";
    const GOOD_EMPTY: &str = "316b9ab98c15bfa039d243f3196acee619cf29749a91a634e6a8154e2f7b6727";
    const GOOD_NOTED: &str = "828ebd30771eda73de70412586c0a7ca7905974b41b69d007f7cc20881d3cc35";

    #[track_caller]
    fn check(header: &str, wanted: Result<usize, SignatureError>) {
        assert_eq!(verify_stripe(Some(header), BODY.as_bytes(), &[SECRET], AT, 300), wanted, "{header}");
    }

    #[track_caller]
    fn check_age(age: i64, tolerance: i64, wanted: Result<usize, SignatureError>) {
        let header = format!("t={AT},v1={GOOD}");
        assert_eq!(verify_stripe(Some(&header), BODY.as_bytes(), &[SECRET], AT + age, tolerance), wanted, "{age}");
    }

    /// `{"algorithm":"HMAC-SHA256","issued_at":1700000000,"user_id":"26"}`, signed with `SECRET`.
    const PAYLOAD: &str = "eyJhbGdvcml0aG0iOiJITUFDLVNIQTI1NiIsImlzc3VlZF9hdCI6MTcwMDAwMDAwMCwidXNlcl9pZCI6IjI2In0";
    const PAYLOAD_SIGNED: &str = "wRpcAgc6e5cKzbFT8N32Am4rcDH5mwbuX_3GtgKrt_Q";

    #[test]
    fn a_signed_request_is_of_one_of_the_secrets_and_not_a_bit_else() {
        let good = format!("{PAYLOAD_SIGNED}.{PAYLOAD}");
        let (which, payload) = verify_signed_request(&good, &["other", SECRET]).unwrap();
        assert_eq!(
            (which, payload.as_slice()),
            (1, br#"{"algorithm":"HMAC-SHA256","issued_at":1700000000,"user_id":"26"}"#.as_slice())
        );
        // With padding, which nothing signs, or without.
        assert!(verify_signed_request(&format!("{PAYLOAD_SIGNED}=.{PAYLOAD}"), &[SECRET]).is_ok());
        assert_eq!(verify_signed_request(&good, &["other"]), Err(SignatureError::Mismatch));
        assert_eq!(verify_signed_request(&good, &[]), Err(SignatureError::Mismatch));
        for (at, byte) in good.bytes().enumerate() {
            for bit in 0..7 {
                let mut flipped = good.clone().into_bytes();
                flipped[at] = byte ^ (1 << bit);
                let flipped = String::from_utf8(flipped).unwrap();
                assert!(verify_signed_request(&flipped, &[SECRET]).is_err(), "{flipped}");
            }
        }
        let other_alphabet = PAYLOAD_SIGNED.replace('-', "+").replace('_', "/");
        assert_ne!(other_alphabet, PAYLOAD_SIGNED);
        for odd in [
            "",
            ".",
            PAYLOAD,
            &format!(".{PAYLOAD}"),
            &format!("{PAYLOAD_SIGNED}."),
            &format!("{other_alphabet}.{PAYLOAD}"),
        ] {
            assert!(verify_signed_request(odd, &[SECRET]).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_code_is_the_same_each_time_and_another_for_each_secret_and_text() {
        let code = code_of(SECRET, "deletion of 26");
        assert_eq!((code.len(), code.clone()), (32, code_of(SECRET, "deletion of 26")));
        assert!(code != code_of(ROTATED, "deletion of 26") && code != code_of(SECRET, "deletion of 27"));
    }

    #[test]
    fn documented_vectors_are_accepted() {
        for (secret, body, signature) in
            [(SECRET, BODY, GOOD), (ROTATED, BODY, GOOD_ROTATED), (SECRET, "", GOOD_EMPTY), (SECRET, NOTED, GOOD_NOTED)]
        {
            let header = format!("t={AT},v1={signature}");
            assert_eq!(verify_stripe(Some(&header), body.as_bytes(), &[secret], AT, 300), Ok(0), "{body}");
            let mut other = body.as_bytes().to_vec();
            other.push(b' ');
            assert_eq!(
                verify_stripe(Some(&header), &other, &[secret], AT, 300),
                Err(SignatureError::Mismatch),
                "what was signed is every byte"
            );
        }
    }

    #[test]
    fn any_active_secret_and_any_v1_will_do() {
        let both = format!("t={AT},v1={GOOD},v1={GOOD_ROTATED},v0={GOOD}");
        for (secrets, which) in
            [(vec![SECRET], 0), (vec![ROTATED], 0), (vec!["whsec_x", ROTATED], 1), (vec![ROTATED, SECRET], 0)]
        {
            assert_eq!(verify_stripe(Some(&both), BODY.as_bytes(), &secrets, AT, 300), Ok(which), "{secrets:?}");
        }
        assert_eq!(verify_stripe(Some(&both), BODY.as_bytes(), &[], AT, 300), Err(SignatureError::Mismatch));
        // The text of the secret is the key, prefix and all.
        assert_eq!(
            verify_stripe(Some(&both), BODY.as_bytes(), &["test_secret"], AT, 300),
            Err(SignatureError::Mismatch)
        );
        assert_eq!(
            verify_stripe(Some(&both), BODY.as_bytes(), &["whsec_test_secret "], AT, 300),
            Err(SignatureError::Mismatch)
        );
    }

    #[test]
    fn behaviours_of_the_official_libraries() {
        assert_eq!(verify_stripe(None, BODY.as_bytes(), &[SECRET], AT, 300), Err(SignatureError::NotSigned));
        check("", Err(SignatureError::NotSigned));
        for header in ["bad_header", "I am not a signature, I promise", "t=", "v1,t=1", "t=abc,v1=x", ","] {
            check(header, Err(SignatureError::Malformed));
        }
        check(&format!("v1={GOOD}"), Err(SignatureError::Malformed));
        check(&format!("t={AT}"), Err(SignatureError::SchemeMissing));
        check(&format!("t={AT},v0={GOOD}"), Err(SignatureError::SchemeMissing));
        check(&format!("t={AT},v2={GOOD},v10={GOOD},V1={GOOD}"), Err(SignatureError::SchemeMissing));
        // One that is not hex is skipped, as Go's library skips it: alone it is as none, beside a good one it does no harm.
        check(&format!("t={AT},v1=bad_signature"), Err(SignatureError::SchemeMissing));
        check(&format!("t={AT},v1={}", "0".repeat(64)), Err(SignatureError::Mismatch));
        for extra in ["v1=bad_signature", "v1=potato", "v1=", "v0=x", "foo=bar=baz"] {
            check(&format!("t={AT},v1={GOOD},{extra}"), Ok(0));
            check(&format!("{extra},t={AT},v1={GOOD}"), Ok(0));
        }
    }

    #[test]
    fn a_header_that_libraries_read_differently_is_refused() {
        // Python takes the first time, Node and Go the last.
        check(&format!("t={AT},t={AT},v1={GOOD}"), Err(SignatureError::Malformed));
        // Node reads a number where it begins; Python and Go sign the number and not what was written.
        for time in [
            format!("{AT}abc"),
            format!("+{AT}"),
            format!(" {AT}"),
            format!("-{AT}"),
            format!("{AT}.0"),
            "9".repeat(30),
        ] {
            check(&format!("t={time},v1={GOOD}"), Err(SignatureError::Malformed));
        }
        check(&format!("t=0{AT},v1={GOOD}"), Err(SignatureError::Mismatch));
        check(&format!("t={AT},v1={}", GOOD.to_uppercase()), Err(SignatureError::SchemeMissing));
        check(&format!("t={AT}, v1={GOOD}"), Err(SignatureError::SchemeMissing));
        check(&format!("t={AT},v1={GOOD},"), Err(SignatureError::Malformed));
        check(&format!("t={AT},v1={GOOD},x={}", "x".repeat(MAX_HEADER)), Err(SignatureError::Malformed));
    }

    #[test]
    fn tolerance_is_closed_at_both_ends() {
        check_age(300, 300, Ok(0));
        check_age(301, 300, Err(SignatureError::Stale));
        check_age(-300, 300, Ok(0));
        check_age(-301, 300, Err(SignatureError::FromTheFuture));
        check_age(15, 10, Err(SignatureError::Stale));
        check_age(15, 20, Ok(0));
        check_age(400, 300, Err(SignatureError::Stale));
        // Nothing means "no limit": zero is zero.
        check_age(0, 0, Ok(0));
        check_age(1, 0, Err(SignatureError::Stale));
    }

    const META: &str = "meta_app_secret_test";
    const META_BODY: &str =
        r#"{"object":"instagram","entry":[{"id":"17841400000000000","time":1700000000,"messaging":[]}]}"#;
    const META_GOOD: &str = "91c5d94b3a953830abbaa20fccc7ad3d63604738a70f56e35e4833eff532dd26";

    #[track_caller]
    fn check_meta(header: &str, wanted: Result<usize, SignatureError>) {
        assert_eq!(verify_meta(Some(header), META_BODY.as_bytes(), &[META]), wanted, "{header}");
    }

    #[test]
    fn metas_vectors_are_accepted_escaped_and_raw_each_as_its_own_bytes() {
        let escaped = (
            br#"{"text":"\u00e4\u00f6\u00e5"}"#.as_slice(),
            "e8473264b157ecd8822805025b2053c005e31cccc7bab366668976639f9023a7",
        );
        let raw = (r#"{"text":"äöå"}"#.as_bytes(), "3cf2cc384e3f2ca536bda1a87f301f3fa90775b005d3b9cff36e6be32cd17eaa");
        for (body, signature) in [(META_BODY.as_bytes(), META_GOOD), escaped, raw] {
            let header = format!("sha256={signature}");
            assert_eq!(verify_meta(Some(&header), body, &["other", META]), Ok(1));
            assert_eq!(verify_meta(Some(&header), &[body, b" "].concat(), &[META]), Err(SignatureError::Mismatch));
        }
        // The same text, but not the same bytes.
        let header = format!("sha256={}", escaped.1);
        assert_eq!(verify_meta(Some(&header), raw.0, &[META]), Err(SignatureError::Mismatch));
    }

    #[test]
    fn metas_header_is_one_sha256_in_lower_case_and_nothing_else() {
        check_meta(&format!("sha256={META_GOOD}"), Ok(0));
        assert_eq!(verify_meta(None, META_BODY.as_bytes(), &[META]), Err(SignatureError::NotSigned));
        assert_eq!(
            verify_meta(Some(&format!("sha256={META_GOOD}")), META_BODY.as_bytes(), &[]),
            Err(SignatureError::Mismatch)
        );
        check_meta("", Err(SignatureError::NotSigned));
        check_meta(META_GOOD, Err(SignatureError::Malformed));
        check_meta(&format!("sha256={}", META_GOOD.to_uppercase()), Err(SignatureError::Malformed));
        check_meta(&format!("sha256={META_GOOD},sha256={META_GOOD}"), Err(SignatureError::Malformed));
        check_meta(&format!("sha256= {META_GOOD}"), Err(SignatureError::Malformed));
        check_meta("sha256=", Err(SignatureError::Malformed));
        check_meta(&format!("sha1={}", &META_GOOD[..40]), Err(SignatureError::SchemeMissing));
        check_meta(&format!("SHA256={META_GOOD}"), Err(SignatureError::SchemeMissing));
        check_meta(&format!("sha256={}", "0".repeat(64)), Err(SignatureError::Mismatch));
    }

    #[test]
    fn tiktoks_vector_is_accepted_within_its_time_and_no_other_scheme_is() {
        const TIKTOK: &str = "tt_client_secret_test";
        let body = r#"{"client_key":"bwo2m45353a6k85","event":"authorization.removed","create_time":1700000000,"user_openid":"act.example","content":"{\"reason\": 1}"}"#;
        let good = "79053b3d4d5bdf3039c76d87dfe72e80fee286d3560118c061e5c2806cbc470a";
        let check = |header: &str, now: i64, wanted: Result<usize, SignatureError>| {
            assert_eq!(
                verify_tiktok(Some(header), body.as_bytes(), &[TIKTOK], now, [1000, 300]),
                wanted,
                "{header} at {now}"
            );
        };
        let header = format!("t={AT},s={good}");
        check(&header, AT, Ok(0));
        check(&header, AT + 1000, Ok(0));
        check(&header, AT + 1001, Err(SignatureError::Stale));
        check(&header, AT - 300, Ok(0));
        check(&header, AT - 301, Err(SignatureError::FromTheFuture));
        check(&format!("t={AT},v1={good}"), AT, Err(SignatureError::SchemeMissing));
        check(&format!("t={},s={good}", AT + 1), AT, Err(SignatureError::Mismatch));
        check(&format!("s={good}"), AT, Err(SignatureError::Malformed));
        check(&format!("s={good},t={AT}"), AT, Ok(0));
    }

    #[test]
    fn a_token_is_one_of_those_that_are_set_and_nothing_like_it() {
        assert!(is_one_of("b", &["a", "b"]));
        for given in ["", "c", "a b", "B", "b "] {
            assert!(!is_one_of(given, &["a", "b"]), "{given:?}");
        }
        assert!(!is_one_of("", &[]));
    }

    proptest::proptest! {
        #[test]
        fn no_header_makes_it_panic_or_accept(header in ".{0,200}", noise in "[tsvha01256=,a-f0-9]{0,200}") {
            for header in [header, noise] {
                proptest::prop_assert!(verify_stripe(Some(&header), BODY.as_bytes(), &[SECRET], AT, 300).is_err());
                proptest::prop_assert!(verify_tiktok(Some(&header), BODY.as_bytes(), &[SECRET], AT, [300, 300]).is_err());
                proptest::prop_assert!(verify_meta(Some(&header), BODY.as_bytes(), &[SECRET]).is_err());
            }
        }
    }
}
