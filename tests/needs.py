"""Marks of tests that need a tool: skipped with a reason where it is not installed."""

import pytest
from chromium import chromium
from cuda_emu.emulator import compiler
from nvdisasm import disassembler

from graphsched.backends.cuda import driver

needs_gxx = pytest.mark.skipif(compiler() is None, reason="g++ is not installed")
needs_nvrtc = pytest.mark.skipif(driver.nvrtc_reason() is not None, reason=str(driver.nvrtc_reason()))
needs_nvdisasm = pytest.mark.skipif(disassembler() is None, reason="nvdisasm is not installed")
needs_chromium = pytest.mark.skipif(chromium() is None, reason="no Chromium is installed")
