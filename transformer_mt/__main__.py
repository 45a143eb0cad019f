"""Where ``tmt`` begins, and ``python -m transformer_mt``; torchrun needs a module to run."""


def main() -> None:
    """Run the command line. An interrupt in its first moment, or its last, is told as others are."""
    try:
        from transformer_mt.system.signals import interrupts_after_imports

        interrupts_after_imports()
        from transformer_mt.cli.main import main as run

        run()
    except KeyboardInterrupt:
        raise SystemExit("tmt: interrupted") from None


if __name__ == "__main__":
    main()
