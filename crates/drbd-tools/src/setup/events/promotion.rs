//! May the resource be promoted here, and how well would that be? (CLI, section 16.3)

use drbd_control::protocol::DeviceState;

use super::known::Known;

impl Known {
    /// May the resource be promoted here, and how well would that be (section 16.3).
    pub(super) fn promotion(&self) -> (bool, u32) {
        let nothing = (false, 0);
        let Some(resource) = &self.state else {
            return nothing;
        };
        let quorum = self.devices.values().all(|d| d.quorum);
        if self.devices.is_empty() || resource.force_io_failures || !quorum {
            return nothing;
        }
        let up_to_date = |disk: &str| disk == "UpToDate";
        let replicas = |(volume, device): (&u16, &DeviceState)| {
            let peers = self.peer_devices.iter().filter(|((_, nr), _)| nr == volume);
            let peers = peers
                .filter(|(_, state)| up_to_date(&state.peer_disk))
                .count();
            usize::from(up_to_date(&device.disk)) + peers
        };
        let least = self.devices.iter().map(replicas).min().unwrap_or(0);
        if least == 0 {
            return nothing;
        }
        let nobody =
            resource.role != "Primary" && self.connections.values().all(|c| c.role != "Primary");
        let has_data = |(volume, device): (&u16, &DeviceState)| {
            let mut peers = self.peer_devices.iter().filter(|((_, nr), _)| nr == volume);
            up_to_date(&device.disk)
                || peers.any(|(_, state)| up_to_date(&state.peer_disk) && state.stable)
        };
        let may = nobody && self.devices.iter().all(has_data);
        let usable = |disk: &str| matches!(disk, "Inconsistent" | "Consistent" | "UpToDate");
        let own_disks = self.devices.values().all(|d| usable(&d.disk));
        let own = self
            .devices
            .values()
            .filter(|d| up_to_date(&d.disk))
            .count();
        let count = |n: usize| u32::try_from(n.min(99)).unwrap_or(99);
        (
            may,
            u32::from(own_disks) * 10_000 + 100 * count(own) + count(least),
        )
    }
}
