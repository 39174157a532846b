//! A network namespace for the target, behind a veth pair. With receive packet steering packets are received on the core of
//! whom they are for, as with two machines; without it, and on loopback, the sender's core does the receiver's work. With a
//! wire, media goes over a TAP device instead, and nobody on this machine receives what the target sends but the generator.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};

use crate::client::wire::{self, Wire};

/// Frames the TAP device keeps for us.
const WIRE_QUEUE: u32 = 60_000;

/// A namespace and its veth pair; gone when dropped.
pub(crate) struct Netns {
    pub(crate) name: String,
    /// The generator's end.
    pub(crate) here: IpAddr,
    /// The target's end.
    pub(crate) there: IpAddr,
    /// Where the target takes media.
    pub(crate) media: IpAddr,
    pub(crate) wire: Option<Arc<Wire>>,
    wire_device: String,
}

impl Netns {
    /// Makes both. `steering`: cores of the target and of the generator, for the receive work of their ends.
    ///
    /// # Errors
    /// Without the right to make namespaces, or without `ip`.
    pub(crate) fn create(steering: Option<(&[usize], &[usize])>, with_wire: bool) -> Result<Netns> {
        let number = std::process::id() % 64;
        let name = format!("load-tests-{}", std::process::id());
        let (outer, inner) = (format!("lt{number}a"), format!("lt{number}b"));
        let address = |host: u8| Ipv4Addr::new(10, 203, 24, (number * 4) as u8 + host);
        let (here, there) = (address(1).into(), address(2).into());
        let wire_device = format!("lt{number}w");
        let mut netns = Netns { name: name.clone(), here, there, media: there, wire: None, wire_device };
        ip(&["netns", "add", &name]).context("making a network namespace needs root")?;
        ip(&["link", "add", &outer, "type", "veth", "peer", "name", &inner, "netns", &name])?;
        ip(&["address", "add", &format!("{}/30", netns.here), "dev", &outer])?;
        ip(&["link", "set", &outer, "up"])?;
        ip(&["-n", &name, "address", "add", &format!("{}/30", netns.there), "dev", &inner])?;
        ip(&["-n", &name, "link", "set", &inner, "up"])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        if let Some((target, generator)) = steering {
            let file = |device: &str| format!("/sys/class/net/{device}/queues/rx-0/rps_cpus");
            std::fs::write(file(&outer), mask(generator)).context("receive packet steering")?;
            let script = format!("echo {} > {}", mask(target), file(&inner));
            ip(&["netns", "exec", &name, "sh", "-c", &script])?;
        }
        if with_wire {
            netns.lay_wire(number)?;
        }
        Ok(netns)
    }

    /// Media of the target by TAP; what still uses sockets (browsers, full clients) reaches its address over the veth pair.
    fn lay_wire(&mut self, number: u32) -> Result<()> {
        let address = |host: u8| Ipv4Addr::new(10, 204, 24, (number * 4) as u8 + host);
        let (ours, target, device) = (address(1), address(2), self.wire_device.clone());
        let wire = Wire::open(&device, ours)?;
        let name = self.name.clone();
        let inside = |command: String| {
            let words: Vec<&str> = ["-n", &name].into_iter().chain(command.split(' ')).collect();
            ip(&words)
        };
        ip(&["link", "set", &device, "netns", &name])?;
        inside(format!("link set {device} address {} txqueuelen {WIRE_QUEUE} up", wire::TARGET_MAC))?;
        inside(format!("address add {target}/30 dev {device}"))?;
        inside(format!("neighbour add {ours} lladdr {} dev {device} nud permanent", wire::OUR_MAC))?;
        ip(&["route", "add", &format!("{target}/32"), "via", &self.there.to_string()])?;
        (self.media, self.wire) = (target.into(), Some(Arc::new(wire)));
        Ok(())
    }

    /// Frames that the wire has dropped so far because the generator did not take them in time.
    pub(crate) fn wire_drops(&self) -> Option<u64> {
        self.wire.as_ref()?;
        wire::dropped(&self.name, &self.wire_device).ok()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // The veth pair goes with it.
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("running ip")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), error.trim());
    Ok(())
}

/// Hexadecimal mask of cores, as `rps_cpus` wants it.
fn mask(cores: &[usize]) -> String {
    format!("{:x}", cores.iter().filter(|core| **core < 64).fold(0_u64, |mask, core| mask | 1 << core))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks() {
        assert_eq!(mask(&[0]), "1");
        assert_eq!(mask(&[1, 3, 5]), "2a");
    }
}
