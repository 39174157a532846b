//! The addresses of this machine's interfaces.

use std::io;
use std::net::IpAddr;

/// Addresses of interfaces that are up, IPv4 before IPv6, each once. Which of them suit media is the configuration's to say.
///
/// # Errors
/// The kernel's answer.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let mut found: Vec<IpAddr> =
        if_addrs::get_if_addrs()?.into_iter().filter(|i| i.is_oper_up()).map(|i| i.ip()).collect();
    found.sort_by_key(|ip| (ip.is_ipv6(), *ip));
    found.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_among_them() {
        assert!(addresses().expect("readable").iter().any(IpAddr::is_loopback));
    }
}
