//! How Stripe signs what it delivers.

use crate::storage::mac;

/// The value of `Stripe-Signature` for `body`, sent at `t` (unix seconds): one `v1` for each of `secrets`.
///
/// A made-up `v0` follows, as Stripe adds to what it sends in test mode: whoever accepts it accepts a forgery.
#[must_use]
pub fn sign(body: &[u8], secrets: &[String], t: i64) -> String {
    let mut header = format!("t={t}");
    for secret in secrets {
        header.push_str(&format!(",v1={}", signature(body, secret, t)));
    }
    header.push_str(&format!(",v0={}", signature(body, "v0", t)));
    header
}

/// One `v1`. The key is the secret's text, `whsec_` included.
#[must_use]
pub fn signature(body: &[u8], secret: &str, t: i64) -> String {
    let signed = [format!("{t}.").as_bytes(), body].concat();
    hex::encode(mac(secret.as_bytes(), &signed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, secret: &str, expected: &str) {
        assert_eq!(signature(body.as_bytes(), secret, 1_700_000_000), expected);
    }

    #[test]
    fn signatures_are_those_of_the_published_vectors() {
        let body = r#"{"id":"evt_test_1","object":"event","type":"invoice.paid"}"#;
        let noted = r#"{"id":"evt_test_1","object":"event","type":"invoice.paid","note":"åäö"}"#;
        check(body, "whsec_test_secret", "3e3e661992c26c45d9105cbea450acc1a34f8c6dbafbd891f858c6fd9054fe3e");
        check(body, "whsec_rotated_secret", "1e46a2b764740714b5d5ddc0da0e53561527db4f00a1ec5b7cabf9232aa7ef84");
        check("", "whsec_test_secret", "316b9ab98c15bfa039d243f3196acee619cf29749a91a634e6a8154e2f7b6727");
        check(noted, "whsec_test_secret", "828ebd30771eda73de70412586c0a7ca7905974b41b69d007f7cc20881d3cc35");
    }

    #[test]
    fn each_active_secret_signs_and_v0_comes_last() {
        let secrets = ["whsec_old".to_owned(), "whsec_new".to_owned()];
        let (old, new) = (signature(b"{}", &secrets[0], 5), signature(b"{}", &secrets[1], 5));
        let header = sign(b"{}", &secrets, 5);
        assert!(header.starts_with(&format!("t=5,v1={old},v1={new},v0=")), "{header}");
    }
}
