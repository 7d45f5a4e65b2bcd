# SPDX-License-Identifier: Apache-2.0
"""Runs the agent on other kernels, in virtual machines without KVM: `make vmtest`.

    kernels.py    kernels of Debian: package, image, modules
    images.py     disk images of Debian releases, with the agent's dependencies in a virtual environment
    initramfs.py  mounts the disks and starts the guest's init
    machine.py    boots a virtual machine, runs tests in it, and collects the results
    plan.py       which kernel runs with which userland, and which tests run there
    expected.py   captures, and the events that this machine finds in them
    report.py     writes the results into the tables of docs/platforms.md
    guest/        the code that runs inside the machine

Kernels and images are kept in ${XDG_CACHE_HOME:-~/.cache}/otel-epping/vm. A kernel or an image is created again when
the versions of its packages change. The images do not contain the agent. Each machine installs the agent from a wheel
of the checkout.
"""
