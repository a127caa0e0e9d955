"""What a volunteer has given, as gateways have signed for it: in one file."""
