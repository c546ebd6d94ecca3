"""Tests of OpenCLIP's models; ``make test-open-clip`` installs what they need."""
