"""The relaxed top-K sample and its temperature."""
