//! What went wrong on a device. wgpu tells a callback, not the caller: the first fault is kept until somebody asks.

use std::sync::{Arc, Mutex};

use tensor::BackendError;

/// The faults of one device.
#[derive(Debug)]
pub(crate) struct Faults {
    device_name: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    first: Option<Fault>,
    /// Why the device is gone for good.
    lost: Option<String>,
}

#[derive(Debug)]
enum Fault {
    OutOfMemory(String),
    /// A validation error or an error inside the driver.
    Other(String),
}

impl Faults {
    /// Listens to `device`.
    pub(crate) fn listen(device: &wgpu::Device, device_name: String) -> Arc<Faults> {
        let faults = Arc::new(Faults { device_name, state: Mutex::default() });
        let heard = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let fault = match &error {
                wgpu::Error::OutOfMemory { .. } => Fault::OutOfMemory(error.to_string()),
                _ => Fault::Other(error.to_string()),
            };
            heard.state().first.get_or_insert(fault);
        }));
        let heard = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            heard.state().lost.get_or_insert(format!("{reason:?}: {message}"));
        });
        faults
    }

    /// Reports the first fault since the last call. A lost device is reported every time.
    pub(crate) fn check(&self) -> Result<(), BackendError> {
        let device = || self.device_name.clone();
        let mut state = self.state();
        if let Some(message) = &state.lost {
            return Err(BackendError::Lost { device: device(), message: message.clone() });
        }
        match state.first.take() {
            None => Ok(()),
            Some(Fault::OutOfMemory(message)) => Err(BackendError::Device {
                device: device(),
                message: format!("the driver is out of memory: {message}"),
            }),
            Some(Fault::Other(message)) => Err(BackendError::Device { device: device(), message }),
        }
    }

    /// An error that wgpu returned; the callbacks' word is better where there is one.
    pub(crate) fn error(&self, error: impl ToString) -> BackendError {
        match self.check() {
            Err(told) => told,
            Ok(()) => BackendError::Device { device: self.device_name.clone(), message: error.to_string() },
        }
    }

    /// Whether the device is gone.
    pub(crate) fn is_lost(&self) -> bool {
        self.state().lost.is_some()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the lock is held")
    }
}
